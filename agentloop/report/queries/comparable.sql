-- $campaign, $suite, $before, $after (adapters, NULL for the base). The evaluations of two policies on the same held-out
-- tasks, the largest such pair first.
WITH used AS (
    SELECT DISTINCT e.id, e.seed, e.tasks, e.samples, e.made, p.adapter
    FROM evaluation_uses u
    JOIN evaluations e ON e.id = u.evaluation
    JOIN policies p ON p.id = e.policy
    WHERE u.campaign = $campaign AND u.suite = $suite
),
measured AS (
    SELECT e.*, n.names
    FROM used e
    JOIN (
        SELECT evaluation, list(task ORDER BY position, sample) AS names FROM evaluation_results GROUP BY evaluation
    ) n ON n.evaluation = e.id
)
SELECT before.id AS before, after.id AS after, before.tasks, before.samples
FROM measured before
JOIN measured after
    ON after.seed = before.seed AND after.samples = before.samples AND after.names = before.names
WHERE before.adapter IS NOT DISTINCT FROM $before AND after.adapter IS NOT DISTINCT FROM $after
ORDER BY before.tasks * before.samples DESC, after.made DESC, before.made DESC
LIMIT 1
