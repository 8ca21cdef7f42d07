-- $campaign. How many of the collected trajectories have this length and this outcome.
SELECT t.tokens, s.success >= 0.5 AS solved, count(*) AS trajectories
FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign AND purpose = 'collect') c
JOIN trajectories t ON t.id = c.trajectory
JOIN v_success s ON s.trajectory = t.id
GROUP BY ALL
ORDER BY ALL
