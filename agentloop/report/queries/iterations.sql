-- $campaign. One row for each iteration that was begun.
SELECT iteration, tasks, rows, champion_success, challenger_success, difference, mcnemar_p, decision, adapter
FROM v_iterations
WHERE campaign = $campaign AND iteration > 0
ORDER BY iteration
