-- When an adapter became champion, and of which campaign. $adapter
SELECT campaign, number, iteration, verdict, reason, moved
FROM champions
WHERE adapter = $adapter
ORDER BY campaign, number
