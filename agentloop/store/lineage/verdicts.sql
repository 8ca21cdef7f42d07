-- What the gate said of an adapter. $adapter
SELECT id, campaign, iteration, decision, difference, mcnemar_p, reason
FROM verdicts
WHERE adapter = $adapter
ORDER BY judged, id
