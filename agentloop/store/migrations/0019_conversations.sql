-- An episode of an agent of one's own may have several conversations, one after the other in its tokens: sub-agents, and
-- histories that the agent has rewritten. Index of the first token of each.
ALTER TABLE trajectories ADD COLUMN starts INTEGER[] DEFAULT [0];

-- How much of what a policy wrote is trained on. The rest was written for nobody: the agent had hung up.
-- campaign, iteration, purpose, trajectories, conversations, written, trainable (tokens)
CREATE VIEW v_trainable AS
WITH said AS (
    SELECT trajectory, sum(token_end - token_start)::BIGINT AS written
    FROM turns
    WHERE role = 'model'
    GROUP BY trajectory
)
SELECT c.campaign, c.iteration, c.purpose, count(*) AS trajectories, sum(len(t.starts))::BIGINT AS conversations,
       coalesce(sum(s.written), 0)::BIGINT AS written, sum(t.model_tokens)::BIGINT AS trainable
FROM collected c
JOIN trajectories t ON t.id = c.trajectory
LEFT JOIN said s ON s.trajectory = t.id
GROUP BY ALL;
COMMENT ON VIEW v_trainable IS 'How much of what a policy wrote is trained on';
COMMENT ON COLUMN v_trainable.campaign IS 'campaign';
COMMENT ON COLUMN v_trainable.iteration IS 'from 1; 0 is the measurement of the base';
COMMENT ON COLUMN v_trainable.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_trainable.trajectories IS 'episodes';
COMMENT ON COLUMN v_trainable.conversations IS 'of the episodes together; more than episodes with an agent of one''s own';
COMMENT ON COLUMN v_trainable.written IS 'tokens that the policy produced';
COMMENT ON COLUMN v_trainable.trainable IS 'of these, tokens of answers that the agent was there to hear';
