INSERT INTO attempts
WITH tries AS (
    SELECT DISTINCT ON (id, number) id, number, attempt
    FROM (
        SELECT id, shard, unnest(attempts) AS attempt, generate_subscripts(attempts, 1) AS number
        FROM incoming
        WHERE fresh OR status = 'failed' AND id NOT IN (SELECT trajectory FROM attempts)
    )
    ORDER BY id, number, shard
)
SELECT id, number, attempt.error, attempt.seconds
FROM tries;
