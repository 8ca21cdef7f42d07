-- $campaign. Every training that was begun; steps: of one that is finished, its metrics by step.
WITH stepped AS (
    SELECT adapter, step, map_from_entries(list({k: name, v: value})) AS metrics
    FROM training_metrics
    WHERE adapter IN (SELECT adapter FROM training_runs WHERE campaign = $campaign)
    GROUP BY adapter, step
)
SELECT r.adapter, r.iteration, coalesce(any_value(c.role), 'challenger') AS role, r.finished IS NOT NULL AS done,
       (SELECT list({step: s.step, metrics: s.metrics} ORDER BY s.step) FROM stepped s WHERE s.adapter = r.adapter) AS steps
FROM training_runs r
LEFT JOIN candidates c ON c.adapter = r.adapter AND c.campaign = r.campaign
WHERE r.campaign = $campaign
GROUP BY r.adapter, r.iteration, r.started, r.finished
ORDER BY r.started
