-- $campaign, $suite. What was measured on its tasks, the newest first.
SELECT u.evaluation, u.role, p.adapter
FROM evaluation_uses u
JOIN evaluations e ON e.id = u.evaluation
JOIN policies p ON p.id = e.policy
WHERE u.campaign = $campaign AND u.suite = $suite
ORDER BY e.number DESC
