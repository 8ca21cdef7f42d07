-- Every campaign, the newest first, with what it has reached and taken. judged: the verdicts that stand, in order; measured:
-- success at the newest held-out measurement; fault: error of the step that ended last; wall: seconds in which a run was at
-- work, of a campaign from before runs were recorded those of its iterations
WITH ran AS (
    SELECT campaign, sum(epoch(coalesce(finished, now() AT TIME ZONE 'UTC')) - epoch(started)) AS seconds
    FROM runs GROUP BY campaign
),
iterated AS (
    SELECT campaign, count(*) FILTER (finished IS NOT NULL) AS done,
           sum(epoch(finished) - epoch(started)) FILTER (finished > started) AS seconds
    FROM iterations WHERE iteration > 0 GROUP BY campaign
),
accelerated AS (
    SELECT campaign, sum(epoch(finished) - epoch(started)) AS seconds FROM gpu_phases GROUP BY campaign
),
judged AS (
    SELECT campaign, list({decision: decision, champion: champion_success, challenger: challenger_success}
                          ORDER BY iteration) AS verdicts
    FROM v_verdicts GROUP BY campaign
),
measured AS (
    SELECT u.campaign, arg_max(e.success, e.number) AS success
    FROM evaluation_uses u JOIN evaluations e ON e.id = u.evaluation
    WHERE u.suite = 'heldout' GROUP BY u.campaign
)
SELECT c.name, c.settings ->> '$.model' AS model, c.settings ->> '$.environment' AS environment,
       (c.settings ->> '$.iterations')::INTEGER AS planned, coalesce(i.done, 0) AS done,
       coalesce(r.seconds, i.seconds) AS wall, g.seconds AS gpu, j.verdicts AS judged, m.success AS measured,
       (SELECT s.error FROM steps s WHERE s.campaign = c.name ORDER BY s.ended DESC NULLS LAST LIMIT 1) AS fault
FROM campaigns c
LEFT JOIN ran r ON r.campaign = c.name
LEFT JOIN iterated i ON i.campaign = c.name
LEFT JOIN accelerated g ON g.campaign = c.name
LEFT JOIN judged j ON j.campaign = c.name
LEFT JOIN measured m ON m.campaign = c.name
ORDER BY c.number DESC
