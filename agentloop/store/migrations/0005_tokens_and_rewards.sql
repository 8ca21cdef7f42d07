-- Tasks whose trajectories must not be trained on, those that are still to be collected included.
CREATE TABLE forgotten_tasks (
    task        VARCHAR PRIMARY KEY,
    reason      VARCHAR NOT NULL,
    forgotten   TIMESTAMP NOT NULL
);

-- Token ids, masks and log probabilities, from the shards. The variable holds the files of all shards that were ingested
-- when the database was opened (store/database.py).
DROP MACRO TABLE tokens;
CREATE VIEW v_tokens AS
SELECT id AS trajectory, token_ids, mask, logprobs, filename AS shard
FROM read_parquet(getvariable('shards'), filename = true);

-- Each turn with its tokens.
CREATE VIEW v_spans AS
SELECT u.trajectory, u.position, u.role, u.tool, u.text, t.token_ids[u.token_start + 1:u.token_end] AS token_ids,
       t.logprobs[u.token_start + 1:u.token_end] AS logprobs, t.mask[u.token_start + 1:u.token_end] AS mask
FROM turns u
JOIN v_tokens t ON t.trajectory = u.trajectory;

-- The newest value of each scorer.
CREATE VIEW v_scores AS
SELECT trajectory, scorer, max(version) AS version, arg_max(value, version) AS value
FROM scores
GROUP BY trajectory, scorer;

-- Success less what it cost: up to 0.2 for tool errors, up to 0.1 for length.
CREATE VIEW v_rewards AS
WITH costs AS (
    SELECT id, policy, task, least(tokens / (sampling ->> 'max_tokens')::INTEGER, 1) AS length,
           least(tool_errors / greatest(model_turns - (status = 'answered')::INTEGER, 1), 1) AS tool_errors
    FROM trajectories
)
SELECT c.id AS trajectory, c.policy, c.task, s.success, c.tool_errors, c.length,
       greatest(s.success - 0.2 * c.tool_errors - 0.1 * c.length, 0) AS reward
FROM costs c
JOIN v_success s ON s.trajectory = c.id;

-- How rare what the model did is among the samples of the same policy at the same task.
CREATE VIEW v_novelty AS
SELECT id AS trajectory, policy, task, actions, count(*) OVER alike AS copies, 1 / count(*) OVER alike AS novelty
FROM trajectories
WINDOW alike AS (PARTITION BY policy, task, actions);
