-- $campaign, $iteration, $purpose, $shards: numbers
INSERT INTO collected
SELECT DISTINCT $campaign, $iteration, $purpose, id
FROM incoming
WHERE shard IN (SELECT unnest($shards))
EXCEPT
SELECT campaign, iteration, purpose, trajectory
FROM collected
WHERE campaign = $campaign AND iteration = $iteration AND purpose = $purpose;
