-- Measurements of the policies that an adapter acts in. $adapter
SELECT e.id, u.campaign, u.iteration, u.role, u.suite, e.success, e.tasks, e.samples
FROM policies p
JOIN evaluations e ON e.policy = p.id
LEFT JOIN evaluation_uses u ON u.evaluation = e.id
WHERE p.adapter = $adapter
ORDER BY u.campaign, u.iteration, u.role, e.id
