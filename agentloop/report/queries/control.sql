-- $campaign. The newest matched control and the challenger of the same iteration that it is matched to.
SELECT c.iteration, c.adapter, d.rows, d.id AS dataset, m.adapter AS challenger
FROM candidates c
JOIN adapters a ON a.id = c.adapter
JOIN datasets d ON d.id = a.dataset
LEFT JOIN candidates m ON m.campaign = c.campaign AND m.iteration = c.iteration AND m.role = 'challenger'
WHERE c.campaign = $campaign AND c.role = 'control'
ORDER BY c.iteration DESC, a.number DESC
LIMIT 1
