-- $campaign. One row for each iteration that was begun; a teaching has none.
SELECT iteration, tasks, rows, champion_success, challenger_success, difference, mcnemar_p, decision, adapter
FROM v_iterations
WHERE campaign = $campaign AND iteration > 0 AND campaign NOT IN (SELECT campaign FROM taught_bases)
ORDER BY iteration
