-- Groups: of each task all samples of one policy, successes and failures, where they differ: what objectives compare.
-- rows: groups
-- rules: difficulty band, short enough, different outcomes
WITH eligible AS (
    SELECT *,
           CASE
               WHEN rate NOT BETWEEN $min_success_rate AND $max_success_rate THEN 'difficulty band'
               WHEN tokens > $max_tokens THEN 'short enough'
           END AS failed
    FROM pool
),
differing AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN min(success) OVER same = max(success) OVER same THEN 'different outcomes'
    END) AS failed)
    FROM eligible
    WINDOW same AS (PARTITION BY failed IS NULL, policy, task)
)
SELECT trajectory, failed, row_number() OVER (ORDER BY iteration, task, policy, sample, trajectory) AS place
FROM differing
