-- $campaign. Samples that only the challenger of an iteration solved, and that only the champion did.
SELECT v.iteration, count(f.flip) FILTER (f.flip = 'gained') AS gained, count(f.flip) FILTER (f.flip = 'lost') AS lost
FROM (SELECT DISTINCT iteration FROM v_verdicts WHERE campaign = $campaign) v
LEFT JOIN v_flips f ON f.campaign = $campaign AND f.iteration = v.iteration
GROUP BY v.iteration
ORDER BY v.iteration
