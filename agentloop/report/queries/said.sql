-- $shard. What was said in its trajectories and came of them, by their place in the file.
SELECT t.position, list({role: u.role, text: u.text, token_start: u.token_start, token_end: u.token_end, tool: u.tool,
                         arguments: u.arguments, error: u.error, reward: u.reward} ORDER BY u.position) AS turns,
       any_value(t.outcome) AS outcome, any_value(t.starts) AS starts
FROM trajectories t
JOIN turns u ON u.trajectory = t.id
WHERE t.shard = $shard
GROUP BY t.position
ORDER BY t.position
