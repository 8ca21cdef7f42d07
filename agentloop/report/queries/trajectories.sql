-- $campaign, $shards (numbers). The campaign's trajectories in these shards, without what was said.
-- trained: iterations whose challenger learned of it.
-- actor: who acted without an adapter, where it is not the campaign's base: experts, messages, stored, teacher, taught base
WITH used AS (
    SELECT trajectory, min(iteration) AS iteration, arg_min(purpose, iteration) AS purpose
    FROM collected
    WHERE campaign = $campaign
    GROUP BY trajectory
),
learned AS (
    SELECT r.trajectory, list(DISTINCT c.iteration ORDER BY c.iteration) AS trained
    FROM candidates c
    JOIN adapters a ON a.id = c.adapter
    JOIN dataset_rows r ON r.dataset = a.dataset
    WHERE c.campaign = $campaign AND c.role IN ('challenger', 'teaching')
    GROUP BY r.trajectory
)
SELECT t.id, u.iteration, u.purpose, p.adapter,
       CASE
           WHEN NOT starts_with(p.base, 'base_') THEN split_part(p.base, '_', 1)
           WHEN p.adapter IS NULL AND EXISTS (
               SELECT 1 FROM taught_bases b WHERE b.campaign = $campaign AND starts_with(p.base, b.base)
           ) THEN 'taught base'
       END AS actor, t.task, t.sample, t.status, t.answer, s.success, t.tokens, t.tool_errors, t.seconds, t.attempts,
       l.trained, t.shard, t.position
FROM used u
JOIN trajectories t ON t.id = u.trajectory
JOIN tasks k ON k.id = t.task
JOIN v_success s ON s.trajectory = t.id
LEFT JOIN policies p ON p.id = t.policy
LEFT JOIN learned l ON l.trajectory = t.id
WHERE t.shard IN (SELECT unnest($shards))
ORDER BY u.iteration, u.purpose, k.family, t.task, t.sample, t.id
