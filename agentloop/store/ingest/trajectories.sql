-- The action sequence is what the model did: each call with its arguments (whitespace of the JSON apart), the text of a
-- turn that was no call, and the final answer instead of the wording around it.
INSERT INTO trajectories
WITH acts AS (
    SELECT *,
           list_filter(turns, lambda turn, i: turn.role = 'model' AND NOT (status = 'answered' AND i = len(turns))) AS moves
    FROM incoming
    WHERE fresh
)
SELECT id, policy, task, sample, seed, sampling, status, answer, tokens, model_tokens,
       len(list_filter(turns, lambda turn: turn.role = 'model')) AS model_turns,
       len(list_filter(turns, lambda turn: turn.role = 'model' AND turn.tool IS NOT NULL)) AS tool_calls,
       len(list_filter(turns, lambda turn: turn.role = 'tool' AND turn.error IS NOT NULL)) AS tool_errors,
       md5(to_json([
           list_transform(moves, lambda move: CASE
               WHEN move.tool IS NULL THEN [trim(move.text)]
               WHEN json_valid(move.arguments) THEN [move.tool, json(move.arguments)::VARCHAR]
               ELSE [move.tool, move.arguments]
           END),
           [[answer]]
       ])::VARCHAR) AS actions,
       seconds, len(attempts), shard, file_row_number
FROM acts
ORDER BY shard, file_row_number;
