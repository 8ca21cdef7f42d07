-- The gate goes by evidence that holds over a campaign's life (docs/gate.md): where each challenger stands in it, what was
-- seen and what was needed, and where the champion met itself or an earlier one.

ALTER TABLE verdicts ADD COLUMN evidence DOUBLE;        -- e-value; NULL: from before the gate went by e-values
ALTER TABLE verdicts ADD COLUMN needed DOUBLE;          -- e-value that was needed
ALTER TABLE verdict_guards ADD COLUMN evidence DOUBLE;  -- e-value against a loss of the margin
ALTER TABLE verdict_guards ADD COLUMN needed DOUBLE;    -- e-value that was needed

-- Where a challenger stands in the life of its campaign: noted before it is measured.
CREATE TABLE contests (
    campaign    VARCHAR NOT NULL,
    number      INTEGER NOT NULL,             -- among the challengers of the campaign, from 1
    iteration   INTEGER NOT NULL,
    adapter     VARCHAR NOT NULL,             -- the challenger
    block       INTEGER NOT NULL,             -- of held-out tasks, from 1
    place       INTEGER NOT NULL,             -- among the challengers of the block, from 1
    promotions  INTEGER NOT NULL,             -- by those before it on the block
    used_up     BOOLEAN NOT NULL,             -- the block was to be renewed, and there are no further held-out tasks
    moves       INTEGER NOT NULL,             -- of the champion pointer before it
    PRIMARY KEY (campaign, number)
);

-- Challengers from before are the first ones of their campaign, all on the first block.
INSERT INTO contests
SELECT campaign, row_number() OVER w, iteration, adapter, 1, row_number() OVER w,
       coalesce(sum(promoted) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0), false, 0
FROM (
    SELECT campaign, iteration, adapter, min(number) AS first, max((decision = 'promote')::INTEGER) AS promoted
    FROM verdicts
    GROUP BY campaign, iteration, adapter
)
WINDOW w AS (PARTITION BY campaign ORDER BY first, iteration, adapter);

-- Measurements of the champion against a policy that is no challenger.
CREATE TABLE meetings (
    campaign    VARCHAR NOT NULL,
    number      INTEGER NOT NULL,             -- among the campaign's meetings, from 1
    iteration   INTEGER NOT NULL,             -- the one that followed or, of itself, the one at work
    kind        VARCHAR NOT NULL,             -- base, earlier (the best of the earlier champions), itself (with another seed)
    block       INTEGER NOT NULL,             -- of held-out tasks
    champion    VARCHAR NOT NULL,             -- evaluation id
    other       VARCHAR NOT NULL,             -- evaluation id
    difference  STRUCT(estimate DOUBLE, low DOUBLE, high DOUBLE) NOT NULL,  -- other less champion
    evidence    DOUBLE NOT NULL,              -- e-value that the other is better
    needed      DOUBLE NOT NULL,
    better      BOOLEAN NOT NULL,             -- the evidence reached what was needed: the champion loses, or a false alarm
    reason      VARCHAR NOT NULL,             -- one sentence
    met         TIMESTAMP NOT NULL,
    PRIMARY KEY (campaign, number)
);

CREATE VIEW v_meetings AS
SELECT campaign, number, iteration, kind, block, difference, evidence, needed, better, reason, met
FROM meetings;

COMMENT ON VIEW v_meetings IS 'The champion against the base, against the best earlier champion, and against itself';
COMMENT ON COLUMN v_meetings.campaign IS 'campaign';
COMMENT ON COLUMN v_meetings.number IS 'from 1';
COMMENT ON COLUMN v_meetings.iteration IS 'from 1';
COMMENT ON COLUMN v_meetings.kind IS 'base, earlier, itself';
COMMENT ON COLUMN v_meetings.block IS 'block of held-out tasks, from 1';
COMMENT ON COLUMN v_meetings.difference IS 'the other less the champion: estimate, low, high';
COMMENT ON COLUMN v_meetings.evidence IS 'e-value that the other is better';
COMMENT ON COLUMN v_meetings.needed IS 'e-value that was needed';
COMMENT ON COLUMN v_meetings.better IS 'the evidence reached what was needed';
COMMENT ON COLUMN v_meetings.reason IS 'one sentence';
COMMENT ON COLUMN v_meetings.met IS 'UTC';

CREATE VIEW v_false_promotions AS
SELECT campaign, count(*) AS nights, count(*) FILTER (better) AS promoted, count(*) FILTER (better) / count(*) AS rate
FROM meetings
WHERE kind = 'itself'
GROUP BY campaign;

COMMENT ON VIEW v_false_promotions IS 'How often the champion would have been promoted over itself';
COMMENT ON COLUMN v_false_promotions.campaign IS 'campaign';
COMMENT ON COLUMN v_false_promotions.nights IS 'on which it met itself';
COMMENT ON COLUMN v_false_promotions.promoted IS 'of these: evidence reached what was needed';
COMMENT ON COLUMN v_false_promotions.rate IS 'promoted / nights';

CREATE OR REPLACE VIEW v_verdicts AS
SELECT v.id, v.campaign, v.iteration, v.adapter, v.decision, v.champion, v.challenger, v.champion_success,
       v.challenger_success, v.difference, v.mcnemar_p, v.reason, v.judged, v.look, v.looks, v.alpha, v.evidence, v.needed,
       c.number AS contest, c.block
FROM verdicts v
LEFT JOIN contests c ON c.campaign = v.campaign AND c.iteration = v.iteration AND c.adapter = v.adapter
QUALIFY row_number() OVER (PARTITION BY v.campaign, v.iteration, v.adapter ORDER BY v.number DESC) = 1;

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
COMMENT ON COLUMN v_verdicts.alpha IS 'level of this challenger; before the gate went by e-values, of this look';
COMMENT ON COLUMN v_verdicts.evidence IS 'e-value; NULL before the gate went by e-values';
COMMENT ON COLUMN v_verdicts.needed IS 'e-value that was needed';
COMMENT ON COLUMN v_verdicts.contest IS 'number of this challenger in the life of the campaign';
COMMENT ON COLUMN v_verdicts.block IS 'block of held-out tasks that it was met on';
