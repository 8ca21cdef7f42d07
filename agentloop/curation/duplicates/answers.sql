-- What the model did in the chosen rows that have company: others with the same question, or nearly. As in ingest, that is
-- its calls, the text of turns that were no calls, and the answer instead of the wording around it.
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
    SELECT c.trajectory, c.place, coalesce(f.earlier, t.task) AS block, t.answer,
           CASE WHEN t.status = 'answered' THEN t.model_turns - 1 ELSE t.model_turns END AS acts
    FROM chosen c
    JOIN trajectories t ON t.id = c.trajectory
    LEFT JOIN firsts f ON f.name = t.task
),
company AS (
    SELECT * FROM asked QUALIFY count(*) OVER (PARTITION BY block) > 1
),
acted AS (
    SELECT trajectory, list(coalesce(tool || ' ' || arguments, text) ORDER BY position) AS acts
    FROM turns
    WHERE role = 'model' AND trajectory IN (SELECT trajectory FROM company)
    GROUP BY trajectory
)
SELECT c.trajectory AS name, c.block, c.place, NULL::VARCHAR AS family,
       array_to_string(a.acts[:c.acts], ' ') || ' ' || coalesce(c.answer, '') AS text
FROM company c
JOIN acted a ON a.trajectory = c.trajectory;
