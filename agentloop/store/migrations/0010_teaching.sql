-- Bases made of other bases by demonstrations (docs/teaching.md). Trajectories with the purpose `demonstrate` are neither
-- collected data of an iteration nor evaluations.
CREATE TABLE taught_bases (
    base        VARCHAR PRIMARY KEY,          -- base_…: fingerprint of what was made
    name        VARCHAR NOT NULL,             -- of its directory
    campaign    VARCHAR NOT NULL,             -- the teaching, a campaign of its own
    student     VARCHAR NOT NULL,             -- base_…: what was taught
    adapter     VARCHAR NOT NULL,             -- adapter_…: what it learnt, merged onto the student's weights
    dataset     VARCHAR NOT NULL,             -- data_…: the demonstrations
    source      JSON NOT NULL,                -- where they came from
    before      VARCHAR,                      -- evaluation of the student; NULL while it is not measured
    after       VARCHAR,                      -- evaluation of the taught base, on the same tasks
    made        TIMESTAMP NOT NULL
);

-- What a teacher behind an endpoint was asked, shard by shard; a shard that was tried again is there again.
CREATE TABLE teacher_usage (
    campaign          VARCHAR NOT NULL,
    shard             VARCHAR NOT NULL,       -- shard_…
    requests          INTEGER NOT NULL,
    prompt_tokens     BIGINT NOT NULL,        -- as the endpoint counts them
    completion_tokens BIGINT NOT NULL,
    seconds           DOUBLE NOT NULL,        -- wall clock of the shard
    spent             TIMESTAMP NOT NULL
);

-- What became of each family of tasks: the one place that says which are never solved.
CREATE VIEW v_families AS
SELECT campaign, iteration, purpose, environment, family, count(DISTINCT task) AS tasks, count(*) AS trajectories,
       count(*) FILTER (solved) AS solved
FROM v_behaviour
GROUP BY campaign, iteration, purpose, environment, family
ORDER BY campaign, iteration, purpose, environment, family;

COMMENT ON VIEW v_families IS 'What became of each family of tasks';
COMMENT ON COLUMN v_families.campaign IS 'campaign';
COMMENT ON COLUMN v_families.iteration IS 'iteration';
COMMENT ON COLUMN v_families.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_families.environment IS 'of the tasks';
COMMENT ON COLUMN v_families.family IS 'of the tasks';
COMMENT ON COLUMN v_families.tasks IS 'distinct';
COMMENT ON COLUMN v_families.trajectories IS 'episodes that finished';
COMMENT ON COLUMN v_families.solved IS 'of these, with a success of at least 0.5';

COMMENT ON COLUMN v_solved.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_tool_errors.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_behaviour.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_suspicious.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_drift.purpose IS 'collect, evaluate or demonstrate';
COMMENT ON COLUMN v_failures.purpose IS 'collect, evaluate or demonstrate';
