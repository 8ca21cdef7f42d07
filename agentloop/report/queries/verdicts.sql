-- $campaign. The verdict that stands on each challenger, in words.
SELECT iteration, decision, reason
FROM v_verdicts
WHERE campaign = $campaign
ORDER BY iteration
