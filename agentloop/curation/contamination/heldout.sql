-- Chosen rows whose task must not be trained on: held out, or measured in an evaluation.
SELECT p.trajectory, p.task
FROM chosen c
JOIN pool p USING (trajectory)
WHERE p.task IN (SELECT id FROM tasks WHERE split = 'heldout')
   OR p.task IN (SELECT task FROM evaluation_results)
ORDER BY c.place;
