-- Tables. Times are UTC. Ids are content ids (agentloop/records.py): a prefix and 16 hexadecimal digits.
-- Large tables have no declared keys: ingest makes sure, under the writer's lock, that each id is there once.

CREATE TABLE campaigns (
    name        VARCHAR PRIMARY KEY,          -- settings.campaign
    defining    JSON NOT NULL,                -- flat {setting: value} of what may not change while the campaign lasts
    settings    JSON NOT NULL,                -- all resolved settings of the latest run
    started     TIMESTAMP NOT NULL,
    updated     TIMESTAMP NOT NULL
);

CREATE TABLE iterations (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,             -- counted from 1; 0 is the measurement of the base
    champion    VARCHAR,                      -- adapter that collected in this iteration; NULL for the base
    started     TIMESTAMP NOT NULL,
    finished    TIMESTAMP,                    -- NULL while it runs
    PRIMARY KEY (campaign, iteration)
);

-- The ledger.
CREATE TABLE steps (
    key         VARCHAR PRIMARY KEY,          -- content id of everything that determines the result
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    name        VARCHAR NOT NULL,             -- what a person calls it: collect, ingest, score, select, train, …
    status      VARCHAR NOT NULL CHECK (status IN ('started', 'done', 'failed')),
    result      JSON,                         -- of a step that is done
    error       VARCHAR,                      -- of a step that failed
    tries       INTEGER NOT NULL,             -- how often it was begun
    started     TIMESTAMP NOT NULL,           -- of the latest try
    finished    TIMESTAMP
);

CREATE TABLE policies (
    id          VARCHAR PRIMARY KEY,          -- policy_…
    base        VARCHAR NOT NULL,             -- base_…
    adapter     VARCHAR,                      -- adapter_…; NULL for the base itself
    prompt      VARCHAR NOT NULL              -- name and version of the prompt format
);

CREATE TABLE tasks (
    id          VARCHAR PRIMARY KEY,          -- task_…
    environment VARCHAR NOT NULL,
    family      VARCHAR NOT NULL,
    question    VARCHAR NOT NULL,
    answer      VARCHAR NOT NULL,             -- what the environment's verifier expects
    split       VARCHAR NOT NULL,             -- train, heldout, demonstration; a task ever seen as heldout is heldout
    payload     JSON NOT NULL
);

-- Parquet files that hold the token ids, masks and logprobs. Both kinds, taken in and set aside.
CREATE TABLE shards (
    number       INTEGER PRIMARY KEY,         -- referred to by trajectories.shard
    id           VARCHAR,                     -- shard_…: content id of the trajectory ids; NULL: cannot be read
    path         VARCHAR NOT NULL,            -- relative to the database's directory where it lies below it
    status       VARCHAR NOT NULL CHECK (status IN ('ingested', 'damaged')),
    reason       VARCHAR,                     -- why it was set aside
    trajectories INTEGER,                     -- rows in the file
    bytes        BIGINT NOT NULL,
    seen         TIMESTAMP NOT NULL
);

-- What the shards were ingested for. A shard that two campaigns plan is one file with two uses.
CREATE TABLE shard_uses (
    shard       INTEGER NOT NULL,             -- shards.number
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    purpose     VARCHAR NOT NULL,             -- collect (may be trained on), evaluate (never)
    PRIMARY KEY (shard, campaign, iteration, purpose)
);

CREATE TABLE trajectories (
    id           VARCHAR NOT NULL,            -- traj_…
    policy       VARCHAR NOT NULL,
    task         VARCHAR NOT NULL,
    sample       INTEGER NOT NULL,            -- index among the samples of this policy and task
    seed         BIGINT NOT NULL,             -- of the run; the seed of each turn follows from names
    sampling     JSON NOT NULL,               -- temperature, top_p, limits (records.Sampling)
    status       VARCHAR NOT NULL,            -- answered, malformed, turn_limit, token_limit, time_limit
    answer       VARCHAR,                     -- as parsed; NULL where the episode ended without one
    tokens       INTEGER NOT NULL,            -- length of the whole sequence
    model_tokens INTEGER NOT NULL,            -- of these, produced by the model
    model_turns  INTEGER NOT NULL,
    tool_calls   INTEGER NOT NULL,
    tool_errors  INTEGER NOT NULL,            -- tool turns in which the tool or the parser complained
    actions      VARCHAR NOT NULL,            -- hash of the action sequence: calls, unparsed turns, answer
    seconds      DOUBLE NOT NULL,             -- wall clock of the successful attempt
    attempts     INTEGER NOT NULL,            -- infrastructure failures before it; see the table attempts
    shard        INTEGER NOT NULL,            -- shards.number
    position     INTEGER NOT NULL             -- row in that file
);

-- What each campaign collected or evaluated. A trajectory that two campaigns plan is run and stored once.
CREATE TABLE collected (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    purpose     VARCHAR NOT NULL,             -- collect, evaluate
    trajectory  VARCHAR NOT NULL
);

CREATE TABLE turns (
    trajectory  VARCHAR NOT NULL,
    position    INTEGER NOT NULL,             -- from 0
    role        VARCHAR NOT NULL,             -- user, model, tool
    text        VARCHAR NOT NULL,
    token_start INTEGER NOT NULL,             -- first token of the span in the trajectory
    token_end   INTEGER NOT NULL,             -- one past its last
    tool        VARCHAR,                      -- model turn: the tool called; tool turn: the tool that answered
    arguments   VARCHAR,                      -- model turn: the call's arguments, JSON
    error       VARCHAR                       -- tool turn: the complaint, as the model was told
);

-- Infrastructure failures: tries at an episode that gave no result and were repeated.
CREATE TABLE attempts (
    trajectory  VARCHAR NOT NULL,             -- the episode that succeeded in the end
    number      INTEGER NOT NULL,             -- from 1
    error       VARCHAR NOT NULL,
    seconds     DOUBLE NOT NULL
);

CREATE TABLE scores (
    trajectory  VARCHAR NOT NULL,
    scorer      VARCHAR NOT NULL,             -- success, or a file of scoring/
    version     INTEGER NOT NULL,             -- of the scorer; readers take the newest
    value       DOUBLE NOT NULL
);

CREATE TABLE datasets (
    id          VARCHAR PRIMARY KEY,          -- data_…
    recipe      VARCHAR NOT NULL,
    parameters  JSON NOT NULL,                -- all that the recipe was given, the hash of its SQL included
    rows        INTEGER NOT NULL,
    made        TIMESTAMP NOT NULL
);

CREATE TABLE dataset_rows (
    dataset     VARCHAR NOT NULL,
    position    INTEGER NOT NULL,             -- from 0
    trajectory  VARCHAR NOT NULL
);

-- Trajectories that must not be trained on any more; see store/forgetting.py.
CREATE TABLE forgotten (
    trajectory  VARCHAR PRIMARY KEY,
    reason      VARCHAR NOT NULL,
    forgotten   TIMESTAMP NOT NULL
);

-- A dataset made for an iteration, and how the choice went.
CREATE TABLE selections (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    dataset     VARCHAR NOT NULL,
    funnel      JSON NOT NULL,                -- [[rule, rows left after it], …], all candidates first
    made        TIMESTAMP NOT NULL,
    PRIMARY KEY (campaign, iteration, dataset)
);

CREATE TABLE adapters (
    id          VARCHAR PRIMARY KEY,          -- adapter_…
    base        VARCHAR NOT NULL,             -- base_…
    dataset     VARCHAR NOT NULL,             -- data_…
    training    JSON NOT NULL,                -- training settings
    seed        BIGINT NOT NULL,
    code        VARCHAR NOT NULL,             -- version of the training code
    parent      VARCHAR,                      -- adapter that training started from; NULL for a fresh one
    path        VARCHAR NOT NULL,             -- relative to the database's directory where it lies below it
    made        TIMESTAMP NOT NULL
);

-- Which adapter an iteration made, and for what.
CREATE TABLE candidates (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    role        VARCHAR NOT NULL,             -- challenger, control
    adapter     VARCHAR NOT NULL,
    PRIMARY KEY (campaign, iteration, role, adapter)
);

CREATE TABLE training_runs (
    adapter     VARCHAR PRIMARY KEY,          -- the adapter that the run makes
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    dataset     VARCHAR NOT NULL,
    parent      VARCHAR,
    started     TIMESTAMP NOT NULL,
    finished    TIMESTAMP,                    -- NULL while it trains
    seconds     DOUBLE,                       -- training time, all continuations together
    tokens      BIGINT,                       -- tokens trained on, all epochs
    resumed     INTEGER                       -- how often it continued from a checkpoint
);

CREATE TABLE training_metrics (
    adapter     VARCHAR NOT NULL,
    step        INTEGER NOT NULL,             -- optimizer step
    name        VARCHAR NOT NULL,             -- loss, learning_rate, grad_norm, tokens, seconds, …
    value       DOUBLE NOT NULL
);

CREATE TABLE evaluations (
    id          VARCHAR PRIMARY KEY,          -- eval_…
    policy      VARCHAR NOT NULL,
    seed        BIGINT NOT NULL,
    tasks       INTEGER NOT NULL,
    samples     INTEGER NOT NULL,             -- of each task
    success     DOUBLE NOT NULL,              -- share of all samples that were solved
    made        TIMESTAMP NOT NULL
);

CREATE TABLE evaluation_results (
    evaluation  VARCHAR NOT NULL,
    position    INTEGER NOT NULL,             -- of the task in the evaluation, from 0
    task        VARCHAR NOT NULL,
    sample      INTEGER NOT NULL,
    solved      BOOLEAN NOT NULL
);

-- What an evaluation was made for. One measurement serves every iteration that needs it.
CREATE TABLE evaluation_uses (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    role        VARCHAR NOT NULL,             -- base, champion, challenger, control
    suite       VARCHAR NOT NULL,             -- heldout, or the name of a guard suite
    evaluation  VARCHAR NOT NULL,
    PRIMARY KEY (campaign, iteration, role, suite, evaluation)
);

CREATE TABLE verdicts (
    id          VARCHAR PRIMARY KEY,          -- verdict_…
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    adapter     VARCHAR NOT NULL,             -- the challenger
    decision    VARCHAR NOT NULL,             -- promote, keep, needs_more_data
    champion    VARCHAR NOT NULL,             -- evaluation id
    challenger  VARCHAR NOT NULL,             -- evaluation id
    champion_success   STRUCT(estimate DOUBLE, low DOUBLE, high DOUBLE) NOT NULL,
    challenger_success STRUCT(estimate DOUBLE, low DOUBLE, high DOUBLE) NOT NULL,
    difference         STRUCT(estimate DOUBLE, low DOUBLE, high DOUBLE) NOT NULL,
    mcnemar_p   DOUBLE NOT NULL,
    reason      VARCHAR NOT NULL,             -- one sentence
    judged      TIMESTAMP NOT NULL
);

-- History of the champion pointer: the entry with the highest number is the champion.
CREATE TABLE champions (
    campaign    VARCHAR NOT NULL,
    number      INTEGER NOT NULL,             -- from 1
    iteration   INTEGER NOT NULL,
    adapter     VARCHAR,                      -- NULL: the base
    verdict     VARCHAR,                      -- verdict_…; NULL for a rollback
    reason      VARCHAR NOT NULL,
    moved       TIMESTAMP NOT NULL,
    PRIMARY KEY (campaign, number)
);

CREATE TABLE canaries (
    campaign        VARCHAR NOT NULL,
    iteration       INTEGER NOT NULL,
    policy          VARCHAR NOT NULL,
    passed          BOOLEAN NOT NULL,
    tokens          INTEGER NOT NULL,         -- compared
    mean_difference DOUBLE NOT NULL,          -- absolute, nats a token, served against trained
    max_difference  DOUBLE NOT NULL,
    tolerance       DOUBLE NOT NULL,          -- what `passed` was judged by
    checked         TIMESTAMP NOT NULL
);

CREATE TABLE gpu_phases (
    campaign    VARCHAR NOT NULL,
    iteration   INTEGER NOT NULL,
    phase       VARCHAR NOT NULL,             -- collect, train, evaluate, …
    started     TIMESTAMP NOT NULL,
    finished    TIMESTAMP NOT NULL,
    peak_bytes  BIGINT                        -- most accelerator memory in use, where known
);
