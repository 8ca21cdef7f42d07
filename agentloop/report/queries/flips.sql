-- $campaign, $limit. The same task and sample, champion against challenger, with both trajectories: at most $limit,
-- shuffled by a hash and in turn from each iteration and direction.
WITH heldout AS (
    SELECT t.id, t.policy, t.task, t.sample, t.seed
    FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign AND purpose = 'evaluate') c
    JOIN trajectories t ON t.id = c.trajectory
),
dealt AS (
    SELECT *, row_number() OVER (PARTITION BY iteration, flip ORDER BY md5(concat(task, sample)), verdict) AS deal
    FROM v_flips
    WHERE campaign = $campaign
)
SELECT f.iteration, f.task, f.question, f.sample, f.flip, before.id AS champion, after.id AS challenger
FROM dealt f
JOIN verdicts v ON v.id = f.verdict
JOIN evaluations a ON a.id = v.champion
JOIN evaluations b ON b.id = v.challenger
JOIN heldout before
    ON before.policy = a.policy AND before.task = f.task AND before.sample = f.sample AND before.seed = a.seed
JOIN heldout after
    ON after.policy = b.policy AND after.task = f.task AND after.sample = f.sample AND after.seed = b.seed
ORDER BY f.deal, f.iteration, f.flip
LIMIT $limit
