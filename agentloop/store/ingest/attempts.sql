INSERT INTO attempts
WITH tries AS (
    SELECT id, unnest(attempts) AS attempt, generate_subscripts(attempts, 1) AS number
    FROM incoming
    WHERE fresh
)
SELECT id, number, attempt.error, attempt.seconds
FROM tries;
