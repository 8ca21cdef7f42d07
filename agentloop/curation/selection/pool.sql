-- What a recipe chooses from: one row for each trajectory that the campaign collected, or was demonstrated, and that is not
-- forgotten, nor its task, and whose tokens were not pruned.
-- tokens: of the longest conversation, which is what has to fit a batch
-- success: newest score by $reward, the setting selection.reward; rate: its mean over the samples that the same policy took at
-- the same task
-- $campaign, $purpose, $reward, $first, $last: iterations
CREATE OR REPLACE TEMP TABLE pool AS
WITH gathered AS (
    SELECT trajectory, min(iteration) AS iteration
    FROM collected
    WHERE campaign = $campaign AND purpose = $purpose AND iteration BETWEEN $first AND $last
      AND trajectory NOT IN (SELECT trajectory FROM forgotten)
      AND trajectory NOT IN (
          SELECT t.id FROM shards h JOIN trajectories t ON t.shard = h.number WHERE h.status = 'pruned')
    GROUP BY trajectory
),
scored AS (
    SELECT trajectory, arg_max(value, version) AS success
    FROM scores
    WHERE scorer = $reward AND trajectory IN (SELECT trajectory FROM gathered)
    GROUP BY trajectory
)
SELECT g.trajectory, g.iteration, t.policy, t.task, t.sample, t.status,
       list_max([coalesce(t.starts[place + 1], t.tokens) - t.starts[place] FOR place IN range(1, len(t.starts) + 1)])::INTEGER
           AS tokens, t.model_tokens, t.model_turns,
       t.tool_calls, t.tool_errors, t.actions, s.success,
       avg(s.success) OVER (PARTITION BY t.policy, t.task) AS rate
FROM gathered g
JOIN trajectories t ON t.id = g.trajectory
LEFT JOIN scored s ON s.trajectory = g.trajectory
WHERE t.task NOT IN (SELECT task FROM forgotten_tasks);
