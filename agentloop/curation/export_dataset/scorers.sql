-- What scored the trajectories.
-- $names
SELECT scorer, version, count(*) AS trajectories
FROM v_scores
WHERE trajectory IN (SELECT unnest($names))
GROUP BY scorer, version
ORDER BY scorer, version;
