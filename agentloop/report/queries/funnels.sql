-- $campaign. Every selection with the role of the adapter that was trained on it. funnel: JSON [[rule, rows left], …]
SELECT s.iteration, s.dataset, coalesce(min(c.role), 'challenger') AS role, d.recipe, d.rows,
       any_value(s.funnel) AS funnel
FROM selections s
JOIN datasets d ON d.id = s.dataset
LEFT JOIN adapters a ON a.dataset = s.dataset
LEFT JOIN candidates c ON c.adapter = a.id AND c.campaign = s.campaign AND c.iteration = s.iteration
WHERE s.campaign = $campaign
GROUP BY s.iteration, s.dataset, d.recipe, d.rows
ORDER BY s.iteration, role, s.dataset
