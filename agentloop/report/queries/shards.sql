-- $campaign. The shards that hold its trajectories, the newest first.
SELECT h.number, coalesce(h.id, 'shard_' || h.number) AS id, h.path
FROM shards h
WHERE h.number IN (
    SELECT t.shard FROM collected c JOIN trajectories t ON t.id = c.trajectory WHERE c.campaign = $campaign
)
ORDER BY h.number DESC
