-- How the training of an adapter went. $adapter
SELECT started, finished, seconds, tokens, resumed
FROM training_runs
WHERE adapter = $adapter
