-- $campaign. The environments that guards asked about.
SELECT DISTINCT g.environment
FROM verdict_guards g
JOIN verdicts v ON v.id = g.verdict
WHERE v.campaign = $campaign
ORDER BY g.environment
