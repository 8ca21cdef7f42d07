-- What an exported row says of an episode beside its messages and tokens. iteration: the first that used it.
-- $names, $campaign, $purpose
SELECT t.id AS trajectory, k.environment, k.family, k.question, k.answer AS expected, k.payload::VARCHAR AS payload,
       p.base, p.adapter, p.prompt AS prompt_format, c.iteration, t.sample, t.seed, t.sampling::VARCHAR AS sampling,
       t.status, t.answer, t.outcome, s.success, coalesce(v.scores, []) AS scores, u.turns
FROM trajectories t
JOIN tasks k ON k.id = t.task
JOIN (
    SELECT trajectory, list({'role': role, 'text': text, 'token_start': token_start, 'token_end': token_end, 'tool': tool,
                             'arguments': arguments, 'error': error, 'reward': reward} ORDER BY position) AS turns
    FROM turns
    WHERE trajectory IN (SELECT unnest($names))
    GROUP BY trajectory
) u ON u.trajectory = t.id
LEFT JOIN policies p ON p.id = t.policy
LEFT JOIN v_success s ON s.trajectory = t.id
LEFT JOIN (
    SELECT trajectory, min(iteration) AS iteration
    FROM collected
    WHERE campaign = $campaign AND purpose = $purpose
    GROUP BY trajectory
) c ON c.trajectory = t.id
LEFT JOIN (
    SELECT trajectory, list({'scorer': scorer, 'version': version, 'value': value} ORDER BY scorer) AS scores
    FROM v_scores
    WHERE trajectory IN (SELECT unnest($names))
    GROUP BY trajectory
) v ON v.trajectory = t.id
WHERE t.id IN (SELECT unnest($names));
