-- What other models solved. $environment, $student (base_…), $families (all where empty), $per_task, $most_tasks
WITH solved AS (
    SELECT t.id, t.task, t.tool_errors, t.model_tokens,
           row_number() OVER (PARTITION BY t.task, t.actions ORDER BY t.model_tokens, t.id) AS copy
    FROM trajectories t
    JOIN policies p ON p.id = t.policy
    JOIN tasks k ON k.id = t.task
    JOIN v_success s ON s.trajectory = t.id
    WHERE s.success >= 0.5 AND k.environment = $environment AND k.split <> 'heldout'
      AND (len($families::VARCHAR[]) = 0 OR list_contains($families::VARCHAR[], k.family))
      -- neither the student, in whatever precision, nor what was said again for another one
      AND NOT starts_with(p.base, $student) AND NOT starts_with(p.base, 'stored_')
      -- nor an agent of one's own, whose tools are not the environment's
      AND NOT contains(p.prompt, '/agent_')
      AND t.id NOT IN (SELECT trajectory FROM forgotten)
      AND t.task NOT IN (SELECT task FROM forgotten_tasks)
      AND t.task NOT IN (SELECT task FROM evaluation_results)
),
ranked AS (
    SELECT *, row_number() OVER (PARTITION BY task ORDER BY tool_errors, model_tokens, id) AS place,
           dense_rank() OVER (ORDER BY md5(task), task) AS number
    FROM solved
    WHERE copy = 1
)
SELECT id
FROM ranked
WHERE place <= $per_task AND number <= $most_tasks
ORDER BY number, place
