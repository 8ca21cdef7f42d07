-- Every training task that the campaign has collected from an iteration on, as if one trajectory of each had been chosen;
-- without what is forgotten. $campaign, $first
CREATE OR REPLACE TEMP TABLE pool AS
SELECT min(t.id) AS trajectory, t.task
FROM (SELECT DISTINCT trajectory FROM collected WHERE campaign = $campaign AND iteration >= $first) c
JOIN trajectories t ON t.id = c.trajectory
JOIN tasks k ON k.id = t.task AND k.split <> 'heldout'
WHERE t.task NOT IN (SELECT task FROM forgotten_tasks)
  AND t.id NOT IN (SELECT trajectory FROM forgotten)
  AND t.task NOT IN (SELECT task FROM evaluation_results)
GROUP BY t.task;
