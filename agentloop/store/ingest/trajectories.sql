INSERT INTO trajectories (id, policy, task, sample, seed, sampling, status, answer, tokens, model_tokens, model_turns,
                          tool_calls, tool_errors, actions, seconds, attempts, shard, position, outcome, starts)
SELECT id, policy, task, sample, seed, sampling, status, answer, tokens, model_tokens, model_turns, tool_calls,
       tool_errors, actions, seconds, len(attempts), shard, file_row_number, outcome, starts
FROM incoming
WHERE fresh
ORDER BY shard, file_row_number;
