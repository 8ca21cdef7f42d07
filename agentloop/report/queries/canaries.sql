-- $campaign. Served logprobs against the trainer's.
SELECT c.iteration, p.adapter, c.passed, c.tokens, c.mean_difference, c.max_difference, c.tolerance
FROM canaries c
LEFT JOIN policies p ON p.id = c.policy
WHERE c.campaign = $campaign
ORDER BY c.number
