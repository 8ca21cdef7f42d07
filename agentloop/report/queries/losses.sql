-- $campaign. Training loss by optimizer step.
SELECT c.iteration, c.role, m.adapter, list(m.step ORDER BY m.step) AS steps, list(m.value ORDER BY m.step) AS losses
FROM candidates c
JOIN training_metrics m ON m.adapter = c.adapter AND m.name = 'loss'
WHERE c.campaign = $campaign
GROUP BY c.iteration, c.role, m.adapter
ORDER BY c.iteration, c.role, m.adapter
