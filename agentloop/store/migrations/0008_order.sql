-- The order in which rows were made. A clock can be set back, so times say when, and never what came after what.
-- And how the episodes of an evaluation were sampled.

ALTER TABLE campaigns ADD COLUMN number BIGINT;     -- from 1
ALTER TABLE steps ADD COLUMN begun BIGINT;          -- when it was last begun, counted over all beginnings and ends of steps
ALTER TABLE steps ADD COLUMN ended BIGINT;          -- the same of its end; NULL while it runs
ALTER TABLE iterations ADD COLUMN moves INTEGER;    -- moves of the champion pointer before it was complete; NULL while it runs
ALTER TABLE adapters ADD COLUMN number BIGINT;      -- from 1
ALTER TABLE evaluations ADD COLUMN number BIGINT;   -- from 1
ALTER TABLE evaluations ADD COLUMN sampling JSON;   -- records.Sampling; NULL: from before it was written down
ALTER TABLE verdicts ADD COLUMN number BIGINT;      -- from 1
ALTER TABLE canaries ADD COLUMN number BIGINT;      -- from 1

CREATE OR REPLACE VIEW v_verdicts AS
SELECT id, campaign, iteration, adapter, decision, champion, challenger, champion_success, challenger_success, difference,
       mcnemar_p, reason, judged, look, looks, alpha
FROM verdicts
QUALIFY row_number() OVER (PARTITION BY campaign, iteration, adapter ORDER BY number DESC) = 1;

COMMENT ON VIEW v_verdicts IS 'The verdict that stands: of the last look at each challenger';
COMMENT ON COLUMN v_verdicts.id IS 'verdict_…';
COMMENT ON COLUMN v_verdicts.campaign IS 'campaign';
COMMENT ON COLUMN v_verdicts.iteration IS 'from 1';
COMMENT ON COLUMN v_verdicts.adapter IS 'the challenger';
COMMENT ON COLUMN v_verdicts.decision IS 'promote, keep, needs_more_data';
COMMENT ON COLUMN v_verdicts.champion IS 'evaluation id';
COMMENT ON COLUMN v_verdicts.challenger IS 'evaluation id';
COMMENT ON COLUMN v_verdicts.champion_success IS 'estimate, low, high';
COMMENT ON COLUMN v_verdicts.challenger_success IS 'estimate, low, high';
COMMENT ON COLUMN v_verdicts.difference IS 'challenger less champion: estimate, low, high';
COMMENT ON COLUMN v_verdicts.mcnemar_p IS 'two-sided, exact';
COMMENT ON COLUMN v_verdicts.reason IS 'one sentence';
COMMENT ON COLUMN v_verdicts.judged IS 'UTC';
COMMENT ON COLUMN v_verdicts.look IS 'which look at this challenger it was';
COMMENT ON COLUMN v_verdicts.looks IS 'how many there might have been';
COMMENT ON COLUMN v_verdicts.alpha IS 'level of this look';

CREATE OR REPLACE VIEW v_iterations AS
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
LEFT JOIN v_verdicts v ON v.campaign = c.campaign AND v.iteration = c.iteration AND v.adapter = c.adapter
ORDER BY i.campaign, i.iteration;

COMMENT ON VIEW v_iterations IS 'One line for each iteration';
COMMENT ON COLUMN v_iterations.campaign IS 'campaign';
COMMENT ON COLUMN v_iterations.iteration IS 'from 1; 0 is the measurement of the base';
COMMENT ON COLUMN v_iterations.champion IS 'adapter that it began with; NULL: the base';
COMMENT ON COLUMN v_iterations.tasks IS 'that were collected';
COMMENT ON COLUMN v_iterations.trajectories IS 'that were collected';
COMMENT ON COLUMN v_iterations.success IS 'mean of what was collected';
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
