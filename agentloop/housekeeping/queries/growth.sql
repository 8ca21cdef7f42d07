-- What came on each of the newest days on which anything did: day, bytes of the shards that are there, trajectories
SELECT seen::DATE AS day, sum(bytes) AS bytes, sum(trajectories) AS trajectories
FROM shards
WHERE status = 'ingested'
GROUP BY day
ORDER BY day DESC
LIMIT $days
