-- $campaign, $limit. At most $limit failures and as many successes, shuffled by a hash and in turn from each iteration
-- and purpose. total: trajectories of the campaign
WITH used AS (
    SELECT trajectory, min(iteration) AS iteration, arg_min(purpose, iteration) AS purpose
    FROM collected
    WHERE campaign = $campaign
    GROUP BY trajectory
),
dealt AS (
    SELECT u.*, s.success >= 0.5 AS solved, count(*) OVER () AS total,
           row_number() OVER (
               PARTITION BY s.success >= 0.5, u.iteration, u.purpose ORDER BY md5(u.trajectory), u.trajectory
           ) AS deal
    FROM used u
    JOIN v_success s ON s.trajectory = u.trajectory
)
SELECT trajectory, solved, total
FROM dealt
QUALIFY row_number() OVER (PARTITION BY solved ORDER BY deal, iteration, purpose) <= $limit
ORDER BY solved, deal, iteration, purpose
