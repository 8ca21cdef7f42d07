-- $campaign. Each iteration in numbers.
SELECT v.iteration, v.finished, v.tasks, v.rows, v.champion_success.estimate AS champion_success,
       v.challenger_success.estimate AS challenger_success, v.difference.estimate AS difference,
       (v.decision = 'promote')::INTEGER AS promoted
FROM v_iterations v
WHERE v.campaign = $campaign AND v.iteration > 0 AND v.finished IS NOT NULL
ORDER BY v.iteration
