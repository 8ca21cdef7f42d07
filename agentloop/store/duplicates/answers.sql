-- What the model wrote in the chosen rows that have company: others with the same question, or nearly.
-- near: (name, earlier) of tasks
CREATE OR REPLACE TEMP TABLE texts AS
WITH RECURSIVE chains AS (
    SELECT name, earlier FROM near
    UNION ALL
    SELECT c.name, n.earlier FROM chains c JOIN near n ON n.name = c.earlier
),
firsts AS (
    SELECT name, earlier FROM chains ANTI JOIN near ON near.name = chains.earlier
),
asked AS (
    SELECT c.trajectory, c.place, coalesce(f.earlier, t.task) AS block
    FROM chosen c
    JOIN trajectories t ON t.id = c.trajectory
    LEFT JOIN firsts f ON f.name = t.task
),
company AS (
    SELECT * FROM asked QUALIFY count(*) OVER (PARTITION BY block) > 1
)
SELECT c.trajectory AS name, c.block, c.place, string_agg(u.text, ' ' ORDER BY u.position) AS text
FROM company c
JOIN turns u ON u.trajectory = c.trajectory AND u.role = 'model'
GROUP BY c.trajectory, c.block, c.place;
