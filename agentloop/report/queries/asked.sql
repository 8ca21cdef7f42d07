-- $campaign, $shards (numbers). The tasks of its trajectories in these shards.
SELECT DISTINCT k.id, k.family, k.question, k.answer AS expected
FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign) c
JOIN trajectories t ON t.id = c.trajectory
JOIN tasks k ON k.id = t.task
WHERE t.shard IN (SELECT unnest($shards))
ORDER BY k.id
