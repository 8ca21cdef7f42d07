-- Episodes that were not begun, because their task was given up.
INSERT INTO unsampled_episodes
SELECT DISTINCT id, policy, task, sample, shard
FROM incoming
WHERE status = 'not_sampled'
ON CONFLICT DO NOTHING;
