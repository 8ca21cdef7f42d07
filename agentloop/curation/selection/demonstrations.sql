-- Demonstrations: of each task the solved ones that differ in what was done, first those without a mistake, then the shortest.
-- purpose: demonstrate
-- rules: solved, short enough, distinct actions, first of the task
WITH eligible AS (
    SELECT *, CASE WHEN success < 0.5 THEN 'solved' WHEN tokens > $max_tokens THEN 'short enough' END AS failed
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
        WHEN row_number() OVER (
            PARTITION BY failed IS NULL, task ORDER BY tool_errors, model_tokens, trajectory
        ) > $per_task
        THEN 'first of the task'
    END) AS failed)
    FROM distinct_actions
)
SELECT trajectory, failed, row_number() OVER (ORDER BY task, tool_errors, model_tokens, trajectory) AS place
FROM first_of_task
