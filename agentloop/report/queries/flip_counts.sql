-- $campaign. Tasks of which an iteration's challenger solved more samples than the champion, and fewer: as its verdict counts.
SELECT v.iteration, count(f.flip) FILTER (f.flip = 'gained') AS gained, count(f.flip) FILTER (f.flip = 'lost') AS lost
FROM (SELECT DISTINCT iteration FROM v_verdicts WHERE campaign = $campaign) v
LEFT JOIN v_task_flips f ON f.campaign = $campaign AND f.iteration = v.iteration
GROUP BY v.iteration
ORDER BY v.iteration
