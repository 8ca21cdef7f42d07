-- Who produced the rows of a dataset. $adapter
SELECT policy, source AS adapter, count(*) AS rows, count(DISTINCT task) AS tasks
FROM v_lineage
WHERE adapter = $adapter
GROUP BY policy, source
ORDER BY rows DESC, policy
