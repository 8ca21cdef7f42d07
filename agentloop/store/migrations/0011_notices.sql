-- What was told of runs, so that nothing is told twice.

CREATE TABLE notices (
    number   BIGINT NOT NULL,           -- from 1, in the order in which they were made
    key      VARCHAR PRIMARY KEY,       -- the attempt at a run that it is about
    campaign VARCHAR NOT NULL,
    events   VARCHAR[] NOT NULL,        -- done, failed, promoted, stalled
    line     VARCHAR NOT NULL,          -- the verdict, on one line
    verdict  BIGINT NOT NULL,           -- verdicts.number of the newest verdict that it covers; 0: none
    judged   BOOLEAN NOT NULL,          -- it covers a verdict that no earlier one does
    made     TIMESTAMP NOT NULL,        -- UTC
    arrived  VARCHAR[],                 -- ways on which it arrived; NULL: it was not sent, or its sending was cut
    failed   VARCHAR[]                  -- ways on which it did not, each with the reason
);

COMMENT ON TABLE notices IS 'What was told of the end of runs';
COMMENT ON COLUMN notices.number IS 'from 1, in the order in which they were made';
COMMENT ON COLUMN notices.key IS 'the attempt at a run that it is about';
COMMENT ON COLUMN notices.campaign IS 'campaign';
COMMENT ON COLUMN notices.events IS 'done, failed, promoted, stalled';
COMMENT ON COLUMN notices.line IS 'the verdict, on one line';
COMMENT ON COLUMN notices.verdict IS 'number of the newest verdict that it covers; 0: none';
COMMENT ON COLUMN notices.judged IS 'it covers a verdict that no earlier one does';
COMMENT ON COLUMN notices.made IS 'UTC';
COMMENT ON COLUMN notices.arrived IS 'ways on which it arrived; NULL: it was not sent, or its sending was cut';
COMMENT ON COLUMN notices.failed IS 'ways on which it did not, each with the reason';
