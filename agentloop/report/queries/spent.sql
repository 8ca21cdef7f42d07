-- $campaign. What each iteration took of the accelerator and in tokens, and what went wrong in it.
WITH names AS (
    SELECT iteration FROM iterations WHERE campaign = $campaign AND iteration > 0
    UNION
    SELECT iteration FROM v_times WHERE campaign = $campaign
    UNION
    SELECT iteration FROM v_episodes WHERE campaign = $campaign
),
ends AS (SELECT iteration, started, finished FROM iterations WHERE campaign = $campaign),
halves AS (
    SELECT n.iteration, false AS control FROM names n
    UNION ALL
    SELECT DISTINCT iteration, true FROM v_times WHERE campaign = $campaign AND control
),
gpu AS (
    SELECT p.iteration, coalesce(p.iteration > 0 AND p.started >= e.finished, false) AS control,
           sum(epoch(p.finished) - epoch(p.started)) AS seconds, max(p.peak_bytes) AS peak
    FROM gpu_phases p LEFT JOIN ends e ON e.iteration = p.iteration
    WHERE p.campaign = $campaign
    GROUP BY ALL
),
processes AS (
    SELECT p.iteration, coalesce(p.iteration > 0 AND p.started >= e.finished, false) AS control,
           count(*) FILTER (process = 'vllm' AND action = 'start') AS vllm_starts,
           count(*) FILTER (process = 'vllm' AND action = 'start' AND reason IS NOT NULL) AS vllm_restarts,
           count(*) FILTER (process = 'trainer' AND action = 'start') AS trainer_starts,
           count(*) FILTER (process = 'trainer' AND action = 'start' AND reason IS NOT NULL) AS trainer_losses
    FROM process_times p LEFT JOIN ends e ON e.iteration = p.iteration
    WHERE p.campaign = $campaign
    GROUP BY ALL
),
trained AS (
    SELECT c.iteration, c.role = 'control' AS control, sum(r.tokens)::BIGINT AS tokens
    FROM candidates c
    JOIN training_runs r ON r.adapter = c.adapter
    WHERE c.campaign = $campaign
    GROUP BY ALL
),
played AS (
    SELECT v.iteration, c.adapter IS NOT NULL AS control, sum(sampled)::BIGINT AS sampled, sum(shown)::BIGINT AS shown,
           sum(episodes)::BIGINT AS episodes, sum(unanswered)::BIGINT AS unanswered, sum(tool_errors)::BIGINT AS tool_errors,
           sum(retries)::BIGINT AS retries, sum(lost)::BIGINT AS lost
    FROM v_episodes v
    LEFT JOIN policies p ON p.id = v.policy
    LEFT JOIN candidates c
        ON c.campaign = v.campaign AND c.iteration = v.iteration AND c.role = 'control' AND c.adapter = p.adapter
    WHERE v.campaign = $campaign
    GROUP BY ALL
)
SELECT h.iteration, h.control, e.started, e.finished, coalesce(g.seconds, 0) AS gpu, g.peak, p.vllm_starts, p.vllm_restarts,
       p.trainer_starts, p.trainer_losses, t.tokens AS trained, y.sampled, y.shown, y.episodes, y.unanswered, y.tool_errors,
       y.retries, y.lost
FROM halves h
LEFT JOIN ends e ON e.iteration = h.iteration
LEFT JOIN gpu g ON g.iteration = h.iteration AND g.control = h.control
LEFT JOIN processes p ON p.iteration = h.iteration AND p.control = h.control
LEFT JOIN trained t ON t.iteration = h.iteration AND t.control = h.control
LEFT JOIN played y ON y.iteration = h.iteration AND y.control = h.control
ORDER BY h.iteration, h.control
