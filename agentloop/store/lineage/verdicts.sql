-- What the gate said of an adapter, at every look. $adapter
SELECT id, campaign, iteration, look, looks, decision, difference, mcnemar_p, reason
FROM verdicts
WHERE adapter = $adapter
ORDER BY number
