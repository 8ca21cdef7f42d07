-- Preference pairs: of each task a success and a failure of the same policy, the shortest of each first, at most
-- $per_task pairs. The rows of the dataset alternate: success, failure, success, failure, …
-- rows: pairs
-- rules: short enough, paired
WITH eligible AS (
    SELECT *, success >= 0.5 AS solved, CASE WHEN tokens > $max_tokens THEN 'short enough' END AS failed
    FROM pool
),
ranked AS (
    SELECT *, row_number() OVER side AS pair
    FROM eligible
    WINDOW side AS (PARTITION BY failed IS NULL, policy, task, solved ORDER BY model_tokens, trajectory)
),
paired AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN pair > least($per_task, count(*) FILTER (solved) OVER sides, count(*) FILTER (NOT solved) OVER sides)
        THEN 'paired'
    END) AS failed)
    FROM ranked
    WINDOW sides AS (PARTITION BY failed IS NULL, policy, task)
)
SELECT trajectory, failed, row_number() OVER (ORDER BY task, policy, pair, solved DESC) AS place
FROM paired
