-- Which iterations made an adapter, and for what. $adapter
SELECT c.campaign, c.iteration, c.role, s.funnel
FROM candidates c
JOIN adapters a ON a.id = c.adapter
LEFT JOIN selections s ON s.campaign = c.campaign AND s.iteration = c.iteration AND s.dataset = a.dataset
WHERE c.adapter = $adapter
ORDER BY c.campaign, c.iteration, c.role
