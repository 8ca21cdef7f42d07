-- The held-out tasks that a campaign has taken, in order: its sealed blocks, also those up to the next one (docs/gate.md).
-- Noted once, so that the hundredth night need not draw those of ninety-nine nights again.
CREATE TABLE heldout_tasks (
    campaign     VARCHAR NOT NULL,
    environment  VARCHAR NOT NULL,             -- the campaign's own or a guard's
    place        INTEGER NOT NULL,             -- from 0
    task         VARCHAR NOT NULL,
    PRIMARY KEY (campaign, environment, place)
);
