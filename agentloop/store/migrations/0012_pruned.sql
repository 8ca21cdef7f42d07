-- What `agentloop prune` has removed from the disk (docs/housekeeping.md). All other rows about it stay: they are the
-- evidence.

-- A row goes when the weights are there again.
CREATE TABLE pruned_adapters (
    adapter VARCHAR PRIMARY KEY,              -- adapter_…
    bytes   BIGINT NOT NULL,                  -- that its files took
    digest  VARCHAR,                          -- of its weights, to compare with what is made again
    pruned  TIMESTAMP NOT NULL
);

-- A shard has one more status. Its rows stay, but for the tokens, which were in the file alone.
CREATE TABLE shards_of_before AS SELECT * FROM shards;
DROP TABLE shards;
CREATE TABLE shards (
    number       INTEGER PRIMARY KEY,         -- referred to by trajectories.shard
    id           VARCHAR,                     -- shard_…: content id of the trajectory ids; NULL: cannot be read
    path         VARCHAR NOT NULL,            -- relative to the database's directory where it lies below it
    status       VARCHAR NOT NULL CHECK (status IN ('ingested', 'damaged', 'pruned')),
    reason       VARCHAR,                     -- why it was set aside, or removed
    trajectories INTEGER,                     -- rows in the file
    bytes        BIGINT NOT NULL,
    seen         TIMESTAMP NOT NULL
);
INSERT INTO shards SELECT * FROM shards_of_before;
DROP TABLE shards_of_before;
