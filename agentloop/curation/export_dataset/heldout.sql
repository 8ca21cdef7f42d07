-- Tasks that must not be trained on: held out, or measured.
SELECT count(*)
FROM tasks
WHERE split = 'heldout' OR id IN (SELECT task FROM evaluation_results);
