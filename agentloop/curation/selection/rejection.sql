-- Rejection sampling: of each task the shortest successes that differ in what the model did.
-- rules: solved, difficulty band, short enough, distinct actions, first of the task, no near duplicate
WITH eligible AS (
    SELECT *,
           CASE
               WHEN success < 0.5 THEN 'solved'
               WHEN rate NOT BETWEEN $min_success_rate AND $max_success_rate THEN 'difficulty band'
               WHEN tokens > $max_tokens THEN 'short enough'
           END AS failed
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
)
SELECT trajectory, failed, row_number() OVER (ORDER BY iteration, task, model_tokens, trajectory) AS place
FROM first_of_task
