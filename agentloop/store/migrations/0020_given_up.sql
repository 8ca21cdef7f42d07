-- Episodes that were not begun: none of the first samples of their task was solved (collect.give_up_after). They are nobody's
-- failure: no trajectory, no attempt, no score. Another shard may have sampled the same trajectory.
CREATE TABLE unsampled_episodes (
    trajectory  VARCHAR NOT NULL,             -- traj_…: the name that the trajectory would have
    policy      VARCHAR NOT NULL,
    task        VARCHAR NOT NULL,
    sample      INTEGER NOT NULL,
    shard       INTEGER NOT NULL,             -- shards.number
    PRIMARY KEY (trajectory, shard)
);

-- Where tasks were given up, a success of what was collected counts the samples that every task has, and no others: tasks that
-- went on would otherwise count more often than those that were given up.
-- campaign, iteration, purpose, samples (of each task that count)
CREATE VIEW v_counted AS
SELECT u.campaign, u.iteration, u.purpose, min(e.sample) AS samples
FROM unsampled_episodes e
JOIN shard_uses u ON u.shard = e.shard
GROUP BY u.campaign, u.iteration, u.purpose;
COMMENT ON VIEW v_counted IS 'How many samples of each task count for a success, where tasks were given up';
COMMENT ON COLUMN v_counted.campaign IS 'campaign';
COMMENT ON COLUMN v_counted.iteration IS 'iteration';
COMMENT ON COLUMN v_counted.purpose IS 'collect';
COMMENT ON COLUMN v_counted.samples IS 'those with a lower index count';

CREATE OR REPLACE VIEW v_iterations AS
WITH gathered AS (
    SELECT c.campaign, c.iteration, count(DISTINCT t.task) AS tasks, count(*) AS trajectories,
           avg(s.success) FILTER (t.sample < coalesce(f.samples, t.sample + 1)) AS success
    FROM collected c
    JOIN trajectories t ON t.id = c.trajectory
    JOIN v_success s ON s.trajectory = c.trajectory
    LEFT JOIN v_counted f ON f.campaign = c.campaign AND f.iteration = c.iteration AND f.purpose = c.purpose
    WHERE c.purpose = 'collect'
    GROUP BY c.campaign, c.iteration
)
SELECT i.campaign, i.iteration, i.champion, g.tasks, g.trajectories, g.success, a.dataset, d.rows, c.adapter,
       v.champion_success, v.challenger_success, v.difference, v.mcnemar_p, v.decision, i.started, i.finished
FROM iterations i
LEFT JOIN gathered g ON g.campaign = i.campaign AND g.iteration = i.iteration
LEFT JOIN candidates c ON c.campaign = i.campaign AND c.iteration = i.iteration AND c.role = 'challenger'
LEFT JOIN adapters a ON a.id = c.adapter
LEFT JOIN datasets d ON d.id = a.dataset
LEFT JOIN v_verdicts v ON v.campaign = c.campaign AND v.iteration = c.iteration AND v.adapter = c.adapter
ORDER BY i.campaign, i.iteration;
COMMENT ON VIEW v_iterations IS 'One line for each iteration';
COMMENT ON COLUMN v_iterations.campaign IS 'campaign';
COMMENT ON COLUMN v_iterations.iteration IS 'from 1; 0 is the measurement of the base';
COMMENT ON COLUMN v_iterations.champion IS 'adapter that it began with; NULL: the base';
COMMENT ON COLUMN v_iterations.tasks IS 'that were collected';
COMMENT ON COLUMN v_iterations.trajectories IS 'that were collected';
COMMENT ON COLUMN v_iterations.success IS 'mean of what was collected; where tasks were given up, of the samples that every task has';
COMMENT ON COLUMN v_iterations.dataset IS 'data_… that was trained on';
COMMENT ON COLUMN v_iterations.rows IS 'of the dataset';
COMMENT ON COLUMN v_iterations.adapter IS 'adapter_…, the challenger';
COMMENT ON COLUMN v_iterations.champion_success IS 'struct of estimate, low, high';
COMMENT ON COLUMN v_iterations.challenger_success IS 'struct of estimate, low, high';
COMMENT ON COLUMN v_iterations.difference IS 'struct of estimate, low, high: challenger less champion';
COMMENT ON COLUMN v_iterations.mcnemar_p IS 'of the exact paired test';
COMMENT ON COLUMN v_iterations.decision IS 'promote, keep or needs_more_data';
COMMENT ON COLUMN v_iterations.started IS 'UTC';
COMMENT ON COLUMN v_iterations.finished IS 'UTC; NULL while it runs';
