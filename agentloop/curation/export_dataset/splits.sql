-- The split of each task that trajectories are of.
-- $names
SELECT t.id, k.split
FROM trajectories t
JOIN tasks k ON k.id = t.task
WHERE t.id IN (SELECT unnest($names));
