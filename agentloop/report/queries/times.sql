-- $campaign. Seconds by iteration and part; control: of the control, which follows the iteration.
SELECT iteration, control, part, sum(seconds) AS seconds, count(*) AS times, max(started) AS newest,
       max(epoch(started) + seconds) AS ended
FROM v_times
WHERE campaign = $campaign
GROUP BY iteration, control, part
ORDER BY iteration, control, min(started)
