-- version: 1
-- Turns that the model took.
SELECT id AS trajectory, model_turns AS value
FROM trajectories
