-- For campaigns that go on for ever: what the newest iteration gave, and of earlier ones at most $replay rows for each of it,
-- drawn by seed, half as likely for every $half_life iterations of age; $rows in all, the newest first.
-- rules: solved, difficulty band, short enough, distinct actions, first of the task, replayed, within rows, no near duplicate
WITH eligible AS (
    SELECT *,
           CASE
               WHEN success < 0.5 THEN 'solved'
               WHEN rate NOT BETWEEN $min_success_rate AND $max_success_rate THEN 'difficulty band'
               WHEN tokens > $max_tokens THEN 'short enough'
           END AS failed,
           -- the smallest of exponential variables is each of them as often as its rate is of their sum
           ln(-ln((('0x' || md5(concat($seed, ' ', trajectory))[1:12])::UBIGINT + 0.5) / 281474976710656))
               + ($iteration - iteration) / $half_life * ln(2) AS draw
    FROM pool
),
distinct_actions AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN row_number() OVER (PARTITION BY failed IS NULL, task, actions ORDER BY model_tokens, trajectory) > 1
        THEN 'distinct actions'
    END) AS failed)
    FROM eligible
),
first_of_task AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN row_number() OVER (PARTITION BY failed IS NULL, task ORDER BY model_tokens, trajectory) > $per_task
        THEN 'first of the task'
    END) AS failed)
    FROM distinct_actions
),
replayed AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN iteration < $iteration
         AND row_number() OVER (PARTITION BY failed IS NULL, iteration < $iteration ORDER BY draw, trajectory)
             > $replay * count(*) FILTER (failed IS NULL AND iteration = $iteration) OVER ()
        THEN 'replayed'
    END) AS failed)
    FROM first_of_task
),
within_rows AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN row_number() OVER (PARTITION BY failed IS NULL ORDER BY iteration < $iteration, draw, trajectory) > $rows
        THEN 'within rows'
    END) AS failed)
    FROM replayed
)
SELECT trajectory, failed, row_number() OVER (ORDER BY iteration, task, model_tokens, trajectory) AS place
FROM within_rows
