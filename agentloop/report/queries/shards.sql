-- $campaign, $first, $last. The shards that hold trajectories of these iterations of the campaign, the newest first.
SELECT h.number, coalesce(h.id, 'shard_' || h.number) AS id, h.path
FROM shards h
WHERE h.number IN (
    SELECT t.shard
    FROM collected c JOIN trajectories t ON t.id = c.trajectory
    WHERE c.campaign = $campaign AND c.iteration BETWEEN $first AND $last
)
ORDER BY h.number DESC
