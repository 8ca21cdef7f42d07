-- The environments of the trajectories' tasks.
-- $names
SELECT DISTINCT k.environment
FROM trajectories t
JOIN tasks k ON k.id = t.task
WHERE t.id IN (SELECT unnest($names))
ORDER BY k.environment;
