-- $campaign. Seconds by iteration and phase, from the record of the accelerator and, for what that does not name, from
-- the ledger (the try that finished).
WITH phases AS (
    SELECT iteration, phase, epoch(finished) - epoch(started) AS seconds, started
    FROM gpu_phases
    WHERE campaign = $campaign
    UNION ALL
    SELECT iteration, name, greatest(epoch(finished) - epoch(started), 0), started
    FROM steps
    WHERE campaign = $campaign AND status = 'done'
      AND name NOT IN (SELECT phase FROM gpu_phases WHERE campaign = $campaign)
)
SELECT iteration, phase, sum(seconds) AS seconds, min(started) AS started
FROM phases
GROUP BY iteration, phase
ORDER BY iteration, started
