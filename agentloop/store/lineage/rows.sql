-- Every row that an adapter was trained on. $adapter
SELECT l.position, l.trajectory, l.task, k.question, l.policy, l.source AS adapter, l.shard
FROM v_lineage l
LEFT JOIN tasks k ON k.id = l.task
WHERE l.adapter = $adapter
ORDER BY l.position
