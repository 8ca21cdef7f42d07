-- Views that a person wants. See docs/data.md.

-- The newest success score of each trajectory. trajectory, success (0 to 1), version
CREATE VIEW v_success AS
SELECT trajectory, arg_max(value, version) AS success, max(version) AS version
FROM scores
WHERE scorer = 'success'
GROUP BY trajectory;

-- Each task as one iteration saw it.
-- campaign, iteration, purpose, policy, task, samples, solved (samples with success of at least 0.5), success (mean)
CREATE VIEW v_solved AS
SELECT c.campaign, c.iteration, c.purpose, t.policy, t.task, count(*) AS samples,
       count(*) FILTER (s.success >= 0.5) AS solved, avg(s.success) AS success
FROM collected c
JOIN trajectories t ON t.id = c.trajectory
JOIN v_success s ON s.trajectory = c.trajectory
GROUP BY ALL;

-- Statistics of the samples of one task by one policy, whoever collected them.
-- policy, task, samples, mean, variance (of the samples, not of the mean), actions (distinct action sequences)
CREATE VIEW v_groups AS
SELECT t.policy, t.task, count(*) AS samples, avg(s.success) AS mean, coalesce(var_samp(s.success), 0) AS variance,
       count(DISTINCT t.actions) AS actions
FROM trajectories t
JOIN v_success s ON s.trajectory = t.id
GROUP BY t.policy, t.task;

-- A trajectory's success relative to its group, in standard deviations; 0 where the group does not vary.
-- trajectory, policy, task, success, advantage
CREATE VIEW v_advantages AS
SELECT t.id AS trajectory, t.policy, t.task, s.success,
       CASE WHEN g.variance = 0 THEN 0 ELSE (s.success - g.mean) / sqrt(g.variance) END AS advantage
FROM trajectories t
JOIN v_success s ON s.trajectory = t.id
JOIN v_groups g ON g.policy = t.policy AND g.task = t.task;

-- Each call of a tool with what came back. trajectory, position, tool, arguments, result, error (NULL where it worked)
CREATE VIEW v_tool_calls AS
SELECT call.trajectory, call.position, call.tool, call.arguments, answer.text AS result, answer.error
FROM turns call
LEFT JOIN turns answer
    ON answer.trajectory = call.trajectory AND answer.position = call.position + 1 AND answer.role = 'tool'
WHERE call.role = 'model' AND call.tool IS NOT NULL;

-- What tools and the parser complained about, most frequent first.
-- campaign, iteration, purpose, tool (NULL: the call could not be parsed), error, times, trajectories
CREATE VIEW v_tool_errors AS
SELECT c.campaign, c.iteration, c.purpose, u.tool, u.error, count(*) AS times,
       count(DISTINCT u.trajectory) AS trajectories
FROM turns u
JOIN collected c ON c.trajectory = u.trajectory
WHERE u.error IS NOT NULL
GROUP BY c.campaign, c.iteration, c.purpose, u.tool, u.error
ORDER BY times DESC, u.error;

-- What the challenger changed: the same task and sample before and after.
-- campaign, iteration, verdict, task, question, sample, champion, challenger (solved or not), flip (gained, lost)
CREATE VIEW v_flips AS
SELECT v.campaign, v.iteration, v.id AS verdict, before.task, k.question, before.sample, before.solved AS champion,
       after.solved AS challenger, CASE WHEN after.solved THEN 'gained' ELSE 'lost' END AS flip
FROM verdicts v
JOIN evaluation_results before ON before.evaluation = v.champion
JOIN evaluation_results after
    ON after.evaluation = v.challenger AND after.task = before.task AND after.sample = before.sample
LEFT JOIN tasks k ON k.id = before.task
WHERE before.solved <> after.solved;

-- Each row that an adapter was trained on and what produced it.
-- adapter, base, dataset, recipe, position, trajectory, task, policy, source (adapter that produced it, NULL: the
-- base), shard (path)
CREATE VIEW v_lineage AS
SELECT a.id AS adapter, a.base, a.dataset, d.recipe, r.position, r.trajectory, t.task, t.policy, p.adapter AS source,
       h.path AS shard
FROM adapters a
JOIN datasets d ON d.id = a.dataset
JOIN dataset_rows r ON r.dataset = a.dataset
LEFT JOIN trajectories t ON t.id = r.trajectory
LEFT JOIN policies p ON p.id = t.policy
LEFT JOIN shards h ON h.number = t.shard;

-- One line for each iteration.
-- campaign, iteration, champion (adapter it began with), tasks, trajectories, success (of what was collected), dataset,
-- rows, adapter, champion_success, challenger_success, difference (structs: estimate, low, high), mcnemar_p, decision,
-- started, finished
CREATE VIEW v_iterations AS
WITH gathered AS (
    SELECT campaign, iteration, count(DISTINCT task) AS tasks, sum(samples)::BIGINT AS trajectories,
           sum(success * samples) / sum(samples) AS success
    FROM v_solved WHERE purpose = 'collect'
    GROUP BY campaign, iteration
)
SELECT i.campaign, i.iteration, i.champion, g.tasks, g.trajectories, g.success, a.dataset, d.rows, c.adapter,
       v.champion_success, v.challenger_success, v.difference, v.mcnemar_p, v.decision, i.started, i.finished
FROM iterations i
LEFT JOIN gathered g ON g.campaign = i.campaign AND g.iteration = i.iteration
LEFT JOIN candidates c ON c.campaign = i.campaign AND c.iteration = i.iteration AND c.role = 'challenger'
LEFT JOIN adapters a ON a.id = c.adapter
LEFT JOIN datasets d ON d.id = a.dataset
LEFT JOIN (
    SELECT DISTINCT ON (campaign, iteration, adapter) *
    FROM verdicts ORDER BY campaign, iteration, adapter, judged DESC
) v ON v.campaign = c.campaign AND v.iteration = c.iteration AND v.adapter = c.adapter
ORDER BY i.campaign, i.iteration;

-- Token ids, masks and log probabilities, from the shards:
--     SELECT * FROM tokens(getvariable('shards')) WHERE trajectory = '…'
-- The variable holds the files of all shards that were ingested when the database was opened.
-- trajectory, token_ids, mask, logprobs, shard (path)
CREATE MACRO tokens(files) AS TABLE
SELECT id AS trajectory, token_ids, mask, logprobs, filename AS shard
FROM read_parquet(files, filename = true);
