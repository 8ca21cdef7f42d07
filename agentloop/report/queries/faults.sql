-- $campaign. What went wrong and was tried again or given up, the newest iteration first.
SELECT iteration, 'episode' AS what, error, count(*) AS times, sum(seconds) AS seconds
FROM v_failures
WHERE campaign = $campaign
GROUP BY iteration, error
UNION ALL
SELECT iteration, CASE process WHEN 'vllm' THEN 'vLLM restarted' ELSE 'trainer ended' END, reason, count(*), sum(seconds)
FROM process_times
WHERE campaign = $campaign AND action = 'start' AND reason IS NOT NULL
GROUP BY iteration, process, reason
UNION ALL
SELECT iteration, name, coalesce(error, 'tried ' || tries || ' times'), tries - (status = 'done')::INTEGER, NULL
FROM steps
WHERE campaign = $campaign AND (status = 'failed' OR status = 'done' AND tries > 1)
ORDER BY 1 DESC, 4 DESC
LIMIT 40
