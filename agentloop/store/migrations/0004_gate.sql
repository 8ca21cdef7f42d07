-- Looks and guards of the gate (docs/gate.md).

ALTER TABLE verdicts ADD COLUMN look INTEGER DEFAULT 1;    -- which look at this challenger's results it was, from 1
ALTER TABLE verdicts ADD COLUMN looks INTEGER DEFAULT 1;   -- how many there might have been
ALTER TABLE verdicts ADD COLUMN alpha DOUBLE;              -- level of this look's test; NULL: from before there were looks

-- What a challenger must not get worse at: champion against challenger on held-out tasks of another environment.
CREATE TABLE verdict_guards (
    verdict     VARCHAR NOT NULL,             -- verdicts.id
    position    INTEGER NOT NULL,             -- from 0
    environment VARCHAR NOT NULL,
    champion    VARCHAR NOT NULL,             -- evaluation id
    challenger  VARCHAR NOT NULL,             -- evaluation id
    difference  STRUCT(estimate DOUBLE, low DOUBLE, high DOUBLE) NOT NULL,
    bound       DOUBLE NOT NULL,              -- what the difference surely exceeds
    margin      DOUBLE NOT NULL,              -- passed where bound > -margin
    PRIMARY KEY (verdict, position)
);

-- The verdict that stands: of the last look at each challenger. Columns of verdicts.
CREATE VIEW v_verdicts AS
SELECT *
FROM verdicts
QUALIFY row_number() OVER (PARTITION BY campaign, iteration, adapter ORDER BY judged DESC, look DESC, id) = 1;

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

-- What the challenger changed: the same task and sample before and after, at the last look.
-- campaign, iteration, verdict, task, question, sample, champion, challenger (solved or not), flip (gained, lost)
CREATE OR REPLACE VIEW v_flips AS
SELECT v.campaign, v.iteration, v.id AS verdict, before.task, k.question, before.sample, before.solved AS champion,
       after.solved AS challenger, CASE WHEN after.solved THEN 'gained' ELSE 'lost' END AS flip
FROM v_verdicts v
JOIN evaluation_results before ON before.evaluation = v.champion
JOIN evaluation_results after
    ON after.evaluation = v.challenger AND after.task = before.task AND after.sample = before.sample
LEFT JOIN tasks k ON k.id = before.task
WHERE before.solved <> after.solved;
