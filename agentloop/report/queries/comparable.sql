-- $campaign, $suite, $before, $after (adapters, NULL for the base). The two evaluations with the most held-out tasks in
-- common; where episodes failed, each may lack some that the other has.
WITH used AS (
    SELECT DISTINCT e.id, e.seed, e.tasks, e.samples, e.sampling, e.number, p.adapter
    FROM evaluation_uses u
    JOIN evaluations e ON e.id = u.evaluation
    JOIN policies p ON p.id = e.policy
    WHERE u.campaign = $campaign AND u.suite = $suite
),
measured AS (
    SELECT e.*, n.names
    FROM used e
    JOIN (
        SELECT evaluation, list(DISTINCT task) AS names FROM evaluation_results GROUP BY evaluation
    ) n ON n.evaluation = e.id
),
pairs AS (
    SELECT before.id AS before, after.id AS after, before.samples, before.number AS made_before, after.number AS made_after,
           len(list_intersect(before.names, after.names)) AS tasks
    FROM measured before
    JOIN measured after ON after.seed = before.seed AND after.samples = before.samples
         AND coalesce(after.sampling = before.sampling, true)  -- NULL: from before it was written down
    WHERE before.adapter IS NOT DISTINCT FROM $before AND after.adapter IS NOT DISTINCT FROM $after
)
SELECT before, after, tasks, samples
FROM pairs
WHERE tasks > 0
ORDER BY tasks * samples DESC, made_after DESC, made_before DESC
LIMIT 1
