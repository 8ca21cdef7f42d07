-- version: 1
-- Share of the tool turns in which the tool or the parser complained; 0 without tool turns.
SELECT id AS trajectory, CASE WHEN tool_errors = 0 THEN 0 ELSE tool_errors / greatest(tool_turns, 1) END AS value
FROM (SELECT id, tool_errors, model_turns - (status = 'answered')::INTEGER AS tool_turns FROM trajectories)
