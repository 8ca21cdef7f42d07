-- What a campaign costs: its runs, and what vLLM and the trainer took beside sampling and training.

-- From when to when a process was at work on a campaign.
CREATE TABLE runs (
    number      BIGINT PRIMARY KEY,           -- from 1, over all campaigns
    campaign    VARCHAR NOT NULL,
    flow        VARCHAR,                      -- self-improve, evaluate, teach; NULL: no flow
    flow_run    VARCHAR,                      -- Prefect's id
    link        VARCHAR,                      -- its page in Prefect's UI
    process     INTEGER NOT NULL,
    started     TIMESTAMP NOT NULL,
    finished    TIMESTAMP,                    -- NULL while it is at work; of a run that was killed, its last sign of life
    error       VARCHAR                       -- one line; NULL: it came to its end
);

-- Starts, stops and the like, and the parts of a training, one row each.
CREATE TABLE process_times (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    process     VARCHAR NOT NULL,             -- vllm, trainer
    action      VARCHAR NOT NULL,             -- vllm: start, stop, load, sleep, wake; trainer: start, steps, save
    started     TIMESTAMP NOT NULL,
    seconds     DOUBLE NOT NULL,
    reason      VARCHAR                       -- vllm: how the process before it was lost; trainer: how this one was
);

ALTER TABLE gpu_phases ADD COLUMN failed BOOLEAN DEFAULT false;   -- true: it ended with an error

-- Where the time went, each second once: a phase without the starts and stops inside it.
CREATE VIEW v_times AS
WITH phases AS (
    SELECT campaign, iteration, phase, started, finished FROM gpu_phases
    UNION ALL
    SELECT s.campaign, s.iteration, s.name, s.started, greatest(s.finished, s.started)
    FROM steps s
    WHERE s.status = 'done' AND NOT EXISTS (FROM gpu_phases p WHERE p.campaign = s.campaign AND p.phase = s.name)
),
inside AS (
    SELECT p.campaign, p.iteration, p.phase, p.started, sum(t.seconds) AS seconds
    FROM phases p
    JOIN process_times t
        ON t.campaign = p.campaign AND t.iteration = p.iteration AND t.started BETWEEN p.started AND p.finished
    GROUP BY ALL
),
parts AS (
    SELECT p.campaign, p.iteration, p.phase AS part, p.started,
           greatest(epoch(p.finished) - epoch(p.started) - coalesce(i.seconds, 0), 0) AS seconds
    FROM phases p
    LEFT JOIN inside i
        ON i.campaign = p.campaign AND i.iteration = p.iteration AND i.phase = p.phase AND i.started = p.started
    UNION ALL
    SELECT campaign, iteration, process || ' ' || action, started, seconds
    FROM process_times
)
SELECT p.campaign, p.iteration, coalesce(p.iteration > 0 AND p.started >= i.finished, false) AS control, p.part, p.started,
       p.seconds
FROM parts p
LEFT JOIN iterations i ON i.campaign = p.campaign AND i.iteration = p.iteration;

COMMENT ON VIEW v_times IS 'Where the time went, each second once';
COMMENT ON COLUMN v_times.campaign IS 'campaign';
COMMENT ON COLUMN v_times.iteration IS 'from 1; 0 is before the first, and what was measured alone';
COMMENT ON COLUMN v_times.control IS 'true after the end of the iteration: for the control';
COMMENT ON COLUMN v_times.part IS 'phase or step without the starts inside it; vllm start, vllm load, trainer start, trainer steps, …';
COMMENT ON COLUMN v_times.started IS 'UTC';
COMMENT ON COLUMN v_times.seconds IS 'wall clock';

-- What episodes cost and what became of them.
CREATE VIEW v_episodes AS
WITH played AS (
    SELECT c.campaign, c.iteration, c.purpose, t.policy, t.tokens, t.model_tokens, t.status, t.tool_errors, t.attempts, t.seconds, false AS lost
    FROM collected c
    JOIN trajectories t ON t.id = c.trajectory
    UNION ALL
    SELECT u.campaign, u.iteration, u.purpose, f.policy, 0, 0, 'failed', 0, (SELECT count(*) FROM attempts a WHERE a.trajectory = f.trajectory),
           0, true
    FROM failed_episodes f
    JOIN shard_uses u ON u.shard = f.shard
)
SELECT campaign, iteration, purpose, policy, count(*) FILTER (NOT lost) AS episodes, sum(model_tokens)::BIGINT AS sampled,
       sum(tokens - model_tokens)::BIGINT AS shown, count(*) FILTER (status NOT IN ('answered', 'failed')) AS unanswered,
       sum(tool_errors)::BIGINT AS tool_errors, sum(attempts)::BIGINT AS retries, count(*) FILTER (lost) AS lost
FROM played
GROUP BY campaign, iteration, purpose, policy
ORDER BY campaign, iteration, purpose, policy;

COMMENT ON VIEW v_episodes IS 'What episodes cost and what became of them';
COMMENT ON COLUMN v_episodes.campaign IS 'campaign';
COMMENT ON COLUMN v_episodes.iteration IS 'iteration';
COMMENT ON COLUMN v_episodes.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_episodes.policy IS 'policy_…';
COMMENT ON COLUMN v_episodes.episodes IS 'that finished, those of another campaign that were used again included';
COMMENT ON COLUMN v_episodes.sampled IS 'tokens that the model produced';
COMMENT ON COLUMN v_episodes.shown IS 'tokens of prompts and tool results';
COMMENT ON COLUMN v_episodes.unanswered IS 'episodes that ended malformed, or out of turns, tokens or time';
COMMENT ON COLUMN v_episodes.tool_errors IS 'complaints of tools and the parser';
COMMENT ON COLUMN v_episodes.retries IS 'attempts that infrastructure kept from finishing';
COMMENT ON COLUMN v_episodes.lost IS 'episodes without an attempt that finished';
