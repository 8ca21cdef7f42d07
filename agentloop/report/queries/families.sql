-- $evaluation. Share of held-out samples solved, by family of the task.
SELECT k.family, count(DISTINCT r.task) AS tasks, avg(r.solved::INTEGER) AS success
FROM evaluation_results r
JOIN tasks k ON k.id = r.task
WHERE r.evaluation = $evaluation
GROUP BY k.family
ORDER BY k.family
