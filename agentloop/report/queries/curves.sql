-- $campaign, $metric. A metric of training by optimizer step.
SELECT c.iteration, c.role, m.adapter, list(m.step ORDER BY m.step) AS steps, list(m.value ORDER BY m.step) AS values
FROM candidates c
JOIN training_metrics m ON m.adapter = c.adapter AND m.name = $metric
WHERE c.campaign = $campaign
GROUP BY c.iteration, c.role, m.adapter
ORDER BY c.iteration, c.role, m.adapter
