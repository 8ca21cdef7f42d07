-- $campaign, $before, $after (adapters, NULL for the base). The evaluations of two policies on the same held-out tasks,
-- the largest such pair first.
WITH used AS (
    SELECT DISTINCT e.id, e.seed, e.tasks, e.samples, e.made, p.adapter
    FROM evaluation_uses u
    JOIN evaluations e ON e.id = u.evaluation
    JOIN policies p ON p.id = e.policy
    WHERE u.campaign = $campaign AND u.suite = 'heldout'
),
measured AS (
    SELECT e.*, (SELECT list(task ORDER BY position) FROM evaluation_results r WHERE r.evaluation = e.id AND r.sample = 0) AS names
    FROM used e
)
SELECT before.id AS before, after.id AS after, before.tasks, before.samples
FROM measured before
JOIN measured after
    ON after.seed = before.seed AND after.samples = before.samples AND after.names = before.names
WHERE before.adapter IS NOT DISTINCT FROM $before AND after.adapter IS NOT DISTINCT FROM $after
ORDER BY before.tasks * before.samples DESC, after.made DESC, before.made DESC
LIMIT 1
