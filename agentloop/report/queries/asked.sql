-- $campaign. The tasks of its trajectories.
SELECT DISTINCT k.id, k.family, k.question, k.answer AS expected
FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign) c
JOIN trajectories t ON t.id = c.trajectory
JOIN tasks k ON k.id = t.task
