-- $campaign. The champion against the base, the best earlier champion and itself, in order.
SELECT m.iteration, m.kind, m.block, e.tasks, m.difference, m.evidence, m.needed, m.better
FROM meetings m
LEFT JOIN evaluations e ON e.id = m.other
WHERE m.campaign = $campaign
ORDER BY m.number
