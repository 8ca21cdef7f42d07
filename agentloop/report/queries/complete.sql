-- $campaign. Iterations that are complete, the newest first: seconds from their begin to their end, the share of these that
-- their phases account for, and whether the run that was begun last has done all of it.
WITH recorded AS (
    SELECT iteration, sum(seconds) AS seconds
    FROM (
        SELECT iteration, epoch(finished) - epoch(started) AS seconds FROM gpu_phases WHERE campaign = $campaign
        UNION ALL
        SELECT iteration, epoch(finished) - epoch(started) FROM steps
        WHERE campaign = $campaign AND status = 'done'
          AND name NOT IN (SELECT phase FROM gpu_phases WHERE campaign = $campaign)
    )
    GROUP BY iteration
)
SELECT i.iteration, epoch(i.finished) - epoch(i.started) AS seconds,
       r.seconds / (epoch(i.finished) - epoch(i.started)) AS covered, i.started >= c.updated AS at_one_go
FROM iterations i
JOIN campaigns c ON c.name = i.campaign
LEFT JOIN recorded r ON r.iteration = i.iteration
WHERE i.campaign = $campaign AND i.finished > i.started
ORDER BY i.iteration DESC
