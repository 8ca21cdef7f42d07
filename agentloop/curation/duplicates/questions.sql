-- The questions of the chosen rows, in the order in which the rows come.
CREATE OR REPLACE TEMP TABLE texts AS
SELECT k.id AS name, '' AS block, min(c.place) AS place,
       any_value(k.environment || ' ' || k.family) AS family, any_value(k.question) AS text
FROM chosen c
JOIN trajectories t ON t.id = c.trajectory
JOIN tasks k ON k.id = t.task
GROUP BY k.id;
