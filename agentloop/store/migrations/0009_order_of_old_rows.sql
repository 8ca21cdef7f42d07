-- Rows from before 0008_order.sql get the order that their times tell; looks at one challenger have a number of their own.
-- (A file of its own: DuckDB changes no rows of a table that the same transaction has altered.)

UPDATE campaigns SET number = o.number
FROM (SELECT name, row_number() OVER (ORDER BY started, name) AS number FROM campaigns) o
WHERE o.name = campaigns.name;

UPDATE steps SET begun = o.begun, ended = o.ended
FROM (
    SELECT key, 2 * row_number() OVER (ORDER BY started, finished NULLS LAST, key) - 1 AS begun,
           CASE WHEN finished IS NOT NULL THEN 2 * row_number() OVER (ORDER BY finished NULLS LAST, started, key) END AS ended
    FROM steps
) o
WHERE o.key = steps.key;

UPDATE iterations SET moves = (
    SELECT count(*) FROM champions c WHERE c.campaign = iterations.campaign AND c.moved < iterations.finished
)
WHERE finished IS NOT NULL;

UPDATE adapters SET number = o.number
FROM (SELECT id, row_number() OVER (ORDER BY made, id) AS number FROM adapters) o
WHERE o.id = adapters.id;

UPDATE evaluations SET number = o.number
FROM (SELECT id, row_number() OVER (ORDER BY made, id) AS number FROM evaluations) o
WHERE o.id = evaluations.id;

-- The last look stands, though its time may be the earlier one. Looks against one champion belong together; a challenger
-- that met another champion later, after a rollback, was judged anew.
UPDATE verdicts SET number = o.number
FROM (
    SELECT id, row_number() OVER (ORDER BY first_look, look, judged, id) AS number
    FROM (
        SELECT v.id, v.look, v.judged,
               min(v.judged) OVER (PARTITION BY v.campaign, v.iteration, v.adapter, e.policy) AS first_look
        FROM verdicts v
        LEFT JOIN evaluations e ON e.id = v.champion
    ) contests
) o
WHERE o.id = verdicts.id;

UPDATE canaries SET number = o.number
FROM (SELECT rowid AS place, row_number() OVER (ORDER BY checked, rowid) AS number FROM canaries) o
WHERE o.place = canaries.rowid;
