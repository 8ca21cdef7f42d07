-- $campaign. What tools and the parser complained about while training data was collected, the most frequent first.
SELECT tool, error, sum(times)::BIGINT AS times, max(iteration) AS newest
FROM v_tool_errors
WHERE campaign = $campaign AND purpose = 'collect'
GROUP BY tool, error
ORDER BY times DESC, error
LIMIT 12
