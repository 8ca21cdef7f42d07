-- $campaign. Every adapter that the campaign made.
SELECT iteration, role, adapter
FROM candidates
WHERE campaign = $campaign
ORDER BY iteration, role, adapter
