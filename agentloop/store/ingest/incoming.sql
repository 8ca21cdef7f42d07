-- The rows of the shards of one batch without tokens and texts. `fresh` is true for the first row of a trajectory that
-- the database does not have: everything else is a duplicate, an episode that failed, or one that was not sampled.
-- The action sequence is what the model did: each call with its arguments (whitespace of the JSON apart), the text of a
-- turn that was no call, and the final answer instead of the wording around it (after which a world may have a last word).
-- $paths: files; batch: (path, number) of the same files
CREATE OR REPLACE TEMP TABLE incoming AS
WITH files AS (
    SELECT * EXCLUDE (turns, token_ids, mask, logprobs) REPLACE (coalesce(starts, [0]) AS starts),
           len(list_filter(turns, lambda turn: turn.role = 'model')) AS model_turns,
           len(list_filter(turns, lambda turn: turn.role = 'model' AND turn.tool IS NOT NULL)) AS tool_calls,
           len(list_filter(turns, lambda turn: turn.role = 'tool' AND turn.error IS NOT NULL)) AS tool_errors,
           md5(to_json([
               list_transform(
                   list_filter(
                       turns, lambda turn, i: turn.role = 'model'
                           AND NOT (status = 'answered' AND i = len(turns) - (turns[-1].role <> 'model')::INTEGER)),
                   lambda turn: CASE
                       WHEN turn.tool IS NULL THEN [trim(turn.text)]
                       WHEN json_valid(turn.arguments) THEN [turn.tool, json(turn.arguments)::VARCHAR]
                       ELSE [turn.tool, turn.arguments]
                   END),
               [[answer]]
           ])::VARCHAR) AS actions
    FROM (
        SELECT * FROM read_parquet($paths, filename = 'path', file_row_number = true, union_by_name = true)
        UNION ALL BY NAME
        SELECT NULL::VARCHAR AS outcome, NULL::INTEGER[] AS starts WHERE false  -- which shards from before lack
    )
),
numbered AS (
    SELECT files.*, batch.number AS shard
    FROM files JOIN batch USING (path)
),
known AS (  -- few, however many trajectories there are
    SELECT id FROM trajectories WHERE id IN (SELECT id FROM numbered)
)
SELECT *, row_number() OVER (PARTITION BY id, status IN ('failed', 'not_sampled') ORDER BY shard, file_row_number) = 1
          AND status NOT IN ('failed', 'not_sampled') AND id NOT IN (SELECT id FROM known) AS fresh
FROM numbered;
