-- All rows of the shards of one batch, without their tokens. `fresh` is true for the first row of a trajectory that the
-- database does not have: everything else is a duplicate.
-- $paths: files; batch: (path, number) of the same files
CREATE OR REPLACE TEMP TABLE incoming AS
WITH files AS (
    SELECT * EXCLUDE (token_ids, mask, logprobs)
    FROM read_parquet($paths, filename = 'path', file_row_number = true)
),
numbered AS (
    SELECT files.* EXCLUDE (path), batch.number AS shard
    FROM files JOIN batch USING (path)
)
SELECT *, row_number() OVER (PARTITION BY id ORDER BY shard, file_row_number) = 1
          AND id NOT IN (SELECT id FROM trajectories) AS fresh
FROM numbered;
