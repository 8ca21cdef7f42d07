-- Episodes that infrastructure kept from finishing: tried as often as collect.attempts says, never scored, no row of
-- `trajectories`. Their errors are in the table `attempts`.
CREATE TABLE failed_episodes (
    trajectory  VARCHAR PRIMARY KEY,          -- traj_…: the name that the trajectory would have
    policy      VARCHAR NOT NULL,
    task        VARCHAR NOT NULL,
    sample      INTEGER NOT NULL,
    shard       INTEGER NOT NULL              -- shards.number
);

-- Every failed attempt, of episodes that finished in the end and of those that did not.
CREATE VIEW v_failures AS
WITH episodes AS (
    SELECT c.campaign, c.iteration, c.purpose, t.id AS trajectory, t.task, t.sample, false AS lost
    FROM collected c
    JOIN trajectories t ON t.id = c.trajectory
    WHERE t.attempts > 0
    UNION ALL
    SELECT u.campaign, u.iteration, u.purpose, f.trajectory, f.task, f.sample, true
    FROM failed_episodes f
    JOIN shard_uses u ON u.shard = f.shard
)
SELECT e.campaign, e.iteration, e.purpose, e.trajectory, e.task, e.sample, a.number AS attempt, a.error, a.seconds, e.lost
FROM episodes e
JOIN attempts a ON a.trajectory = e.trajectory;

COMMENT ON VIEW v_failures IS 'Failed attempts at episodes, with their errors';
COMMENT ON COLUMN v_failures.campaign IS 'campaign';
COMMENT ON COLUMN v_failures.iteration IS 'iteration';
COMMENT ON COLUMN v_failures.purpose IS 'collect or evaluate';
COMMENT ON COLUMN v_failures.trajectory IS 'traj_…';
COMMENT ON COLUMN v_failures.task IS 'task_…';
COMMENT ON COLUMN v_failures.sample IS 'index among the samples of the task';
COMMENT ON COLUMN v_failures.attempt IS 'number of the attempt, from 1';
COMMENT ON COLUMN v_failures.error IS 'what ended it';
COMMENT ON COLUMN v_failures.seconds IS 'how long it took';
COMMENT ON COLUMN v_failures.lost IS 'true where no attempt succeeded: the episode has no trajectory and no score';
