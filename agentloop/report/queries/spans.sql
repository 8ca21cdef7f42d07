-- $campaign, $iteration. Mean seconds of a phase in an iteration, from the record of the accelerator and, for what that does
-- not name, from the ledger (steps that were begun once).
SELECT phase, avg(epoch(finished) - epoch(started)) AS seconds
FROM (
    SELECT phase, started, finished FROM gpu_phases
    WHERE campaign = $campaign AND iteration = $iteration AND NOT failed
    UNION ALL
    SELECT name, started, finished FROM steps
    WHERE campaign = $campaign AND iteration = $iteration AND status = 'done' AND tries = 1
      AND name NOT IN (SELECT phase FROM gpu_phases WHERE campaign = $campaign AND iteration = $iteration)
)
WHERE finished > started
GROUP BY phase
