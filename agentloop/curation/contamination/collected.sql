-- Every training task with trajectories, as if one of each had been chosen; without what is forgotten.
CREATE OR REPLACE TEMP TABLE pool AS
SELECT min(t.id) AS trajectory, t.task
FROM trajectories t
JOIN tasks k ON k.id = t.task AND k.split <> 'heldout'
WHERE t.task NOT IN (SELECT task FROM forgotten_tasks)
  AND t.id NOT IN (SELECT trajectory FROM forgotten)
  AND t.task NOT IN (SELECT task FROM evaluation_results)
GROUP BY t.task;
CREATE OR REPLACE TEMP TABLE chosen AS
SELECT trajectory, row_number() OVER (ORDER BY trajectory) AS place FROM pool;
