-- $campaign, $shards (numbers). Every task that an iteration gained or lost, with the first sample that went the same
-- way: champion and challenger are the two trajectories, both in these shards.
WITH heldout AS (
    SELECT t.id, t.policy, t.task, t.sample, t.seed
    FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign AND purpose = 'evaluate') c
    JOIN trajectories t ON t.id = c.trajectory
    WHERE t.shard IN (SELECT unnest($shards))
)
SELECT f.iteration, f.flip, f.task, before.id AS champion, after.id AS challenger
FROM v_task_flips f
JOIN v_flips s ON s.verdict = f.verdict AND s.task = f.task AND s.flip = f.flip
JOIN verdicts v ON v.id = f.verdict
JOIN evaluations a ON a.id = v.champion
JOIN evaluations b ON b.id = v.challenger
JOIN heldout before
    ON before.policy = a.policy AND before.task = s.task AND before.sample = s.sample AND before.seed = a.seed
JOIN heldout after
    ON after.policy = b.policy AND after.task = s.task AND after.sample = s.sample AND after.seed = b.seed
WHERE f.campaign = $campaign
QUALIFY row_number() OVER (PARTITION BY f.verdict, f.task ORDER BY s.sample) = 1
ORDER BY f.iteration, md5(f.task), f.task
