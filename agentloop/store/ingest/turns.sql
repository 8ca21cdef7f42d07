-- Texts come from the files directly, which are read in parallel. $paths: files
INSERT INTO turns (trajectory, position, role, text, token_start, token_end, tool, arguments, error, reward)
WITH spans AS (
    SELECT id, unnest(turns) AS turn, generate_subscripts(turns, 1) - 1 AS position
    FROM (
        SELECT id, turns, path, file_row_number
        FROM read_parquet($paths, filename = 'path', file_row_number = true, union_by_name = true)
        UNION ALL BY NAME
        SELECT NULL::STRUCT(reward DOUBLE)[] AS turns WHERE false  -- which shards from before there were sessions lack
    )
    WHERE (path, file_row_number) IN (SELECT (path, file_row_number) FROM incoming WHERE fresh)
)
SELECT id, position, turn.role, turn.text, turn.token_start, turn.token_end, turn.tool, turn.arguments, turn.error,
       turn.reward
FROM spans;
