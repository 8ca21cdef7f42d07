-- version: 1
-- Tokens that the model produced.
SELECT id AS trajectory, model_tokens AS value
FROM trajectories
