-- Who acted in the trajectories.
-- $names
SELECT t.policy, p.base, p.adapter, p.prompt, count(*) AS trajectories
FROM trajectories t
LEFT JOIN policies p ON p.id = t.policy
WHERE t.id IN (SELECT unnest($names))
GROUP BY ALL
ORDER BY trajectories DESC, t.policy;
