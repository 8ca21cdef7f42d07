-- $campaign, $ids. These trajectories with what is known of them; trained: iterations whose challenger learned of it.
-- actor: who acted without an adapter, where it is not the campaign's base: experts, messages, stored, teacher, taught base
WITH chosen AS (SELECT unnest($ids::VARCHAR[]) AS id),
used AS (
    SELECT trajectory, min(iteration) AS iteration, arg_min(purpose, iteration) AS purpose
    FROM collected
    WHERE campaign = $campaign AND trajectory IN (SELECT id FROM chosen)
    GROUP BY trajectory
),
spoken AS (
    SELECT trajectory,
           list({role: role, text: text, token_start: token_start, token_end: token_end, tool: tool,
                 arguments: arguments, error: error} ORDER BY position) AS turns
    FROM turns
    WHERE trajectory IN (SELECT id FROM chosen)
    GROUP BY trajectory
),
learned AS (
    SELECT r.trajectory, list(DISTINCT c.iteration ORDER BY c.iteration) AS trained
    FROM dataset_rows r
    JOIN adapters a ON a.dataset = r.dataset
    JOIN candidates c ON c.adapter = a.id AND c.campaign = $campaign AND c.role IN ('challenger', 'teaching')
    WHERE r.trajectory IN (SELECT id FROM chosen)
    GROUP BY r.trajectory
)
SELECT t.id, u.iteration, u.purpose, p.adapter,
       CASE
           WHEN NOT starts_with(p.base, 'base_') THEN split_part(p.base, '_', 1)
           WHEN p.adapter IS NULL AND EXISTS (
               SELECT 1 FROM taught_bases b WHERE b.campaign = $campaign AND starts_with(p.base, b.base)
           ) THEN 'taught base'
       END AS actor, t.task, k.family, k.question, k.answer AS expected, t.sample,
       t.status, t.answer, s.success, t.tokens, t.tool_errors, t.seconds, t.attempts, w.turns, l.trained,
       h.path AS shard, t.position
FROM used u
JOIN trajectories t ON t.id = u.trajectory
JOIN tasks k ON k.id = t.task
JOIN v_success s ON s.trajectory = t.id
JOIN shards h ON h.number = t.shard
LEFT JOIN policies p ON p.id = t.policy
LEFT JOIN spoken w ON w.trajectory = t.id
LEFT JOIN learned l ON l.trajectory = t.id
ORDER BY u.iteration, u.purpose, k.family, t.task, t.sample, t.id
