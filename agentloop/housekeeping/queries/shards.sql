-- Every shard that is there, or ought to be gone.
-- shard, path, status, seen, campaigns (that use it), chosen (rows that a dataset holds), measured (it is more than collected:
-- evaluations and demonstrations were made of it), open (an iteration that uses it is not finished)
SELECT h.id AS shard, h.path, h.status, h.seen, h.trajectories,
       coalesce(list(DISTINCT u.campaign) FILTER (u.campaign IS NOT NULL), []) AS campaigns,
       coalesce(any_value(c.rows), 0) AS chosen,
       coalesce(bool_or(u.purpose <> 'collect'), false) AS measured,
       coalesce(bool_or(u.shard IS NOT NULL AND i.finished IS NULL), false) AS open
FROM shards h
LEFT JOIN shard_uses u ON u.shard = h.number
LEFT JOIN iterations i ON i.campaign = u.campaign AND i.iteration = u.iteration
LEFT JOIN (
    SELECT t.shard, count(DISTINCT t.id) AS rows
    FROM trajectories t
    WHERE t.id IN (SELECT trajectory FROM dataset_rows)
    GROUP BY t.shard
) c ON c.shard = h.number
WHERE h.status <> 'damaged'
GROUP BY h.number, h.id, h.path, h.status, h.seen, h.trajectories
ORDER BY h.number
