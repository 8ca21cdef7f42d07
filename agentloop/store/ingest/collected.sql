-- $campaign, $iteration, $purpose, $shards: numbers
INSERT INTO collected
WITH given AS (
    SELECT DISTINCT id FROM incoming WHERE status NOT IN ('failed', 'not_sampled') AND shard IN (SELECT unnest($shards))
)
SELECT $campaign, $iteration, $purpose, id
FROM given
WHERE id NOT IN (
    SELECT trajectory
    FROM collected
    WHERE campaign = $campaign AND iteration = $iteration AND purpose = $purpose
      AND trajectory IN (SELECT id FROM given));
