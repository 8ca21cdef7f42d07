-- Episodes without a trajectory, with their attempts.
INSERT INTO failed_episodes
SELECT DISTINCT ON (id) id, policy, task, sample, shard
FROM incoming
WHERE status = 'failed'
ORDER BY id, shard, file_row_number
ON CONFLICT DO NOTHING;
