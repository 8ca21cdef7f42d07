-- Episodes in a world that speaks, is over by itself, rewards turns and has an outcome (docs/own-task.md).
ALTER TABLE trajectories ADD COLUMN outcome VARCHAR;  -- JSON: what the session knew at the end; NULL: it has no outcome
ALTER TABLE turns ADD COLUMN reward DOUBLE;           -- model turn: reward that the world gave for it

-- An episode that its world has ended needs no answer.
CREATE OR REPLACE VIEW v_episodes AS
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
       sum(tokens - model_tokens)::BIGINT AS shown, count(*) FILTER (status NOT IN ('answered', 'ended', 'failed')) AS unanswered,
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
COMMENT ON COLUMN v_episodes.shown IS 'tokens of prompts, tool results and observations';
COMMENT ON COLUMN v_episodes.unanswered IS 'episodes that ended malformed, or out of turns, tokens or time';
COMMENT ON COLUMN v_episodes.tool_errors IS 'complaints of tools and the parser';
COMMENT ON COLUMN v_episodes.retries IS 'attempts that infrastructure kept from finishing';
COMMENT ON COLUMN v_episodes.lost IS 'episodes without an attempt that finished';

COMMENT ON COLUMN v_scores.scorer IS 'success, tokens, turns, tool_errors, another score of the environment or a scorer of your own';
