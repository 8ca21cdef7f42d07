-- Who produced the rows of a dataset. $adapter. base: of a demonstration, what it came from (experts_…, teacher_…, …)
SELECT l.policy, l.source AS adapter, p.base, count(*) AS rows, count(DISTINCT l.task) AS tasks
FROM v_lineage l
LEFT JOIN policies p ON p.id = l.policy
WHERE l.adapter = $adapter
GROUP BY l.policy, l.source, p.base
ORDER BY rows DESC, l.policy
