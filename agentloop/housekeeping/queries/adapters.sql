-- Every adapter with what its weights are needed for.
-- adapter, path, made, champion (it was, of whatever campaign), ancestor (of such a one, or of a taught base, by continuation
-- or by the rows that it was trained on), open (its iteration is not finished, or it is a control that is not measured), newer
-- (iterations of its campaign that came after the one it was made in; NULL where no campaign has it)
WITH RECURSIVE
links AS (
    SELECT id AS adapter, parent AS source FROM adapters WHERE parent IS NOT NULL
    UNION
    SELECT a.id, p.adapter
    FROM adapters a
    JOIN dataset_rows r ON r.dataset = a.dataset
    JOIN trajectories t ON t.id = r.trajectory
    JOIN policies p ON p.id = t.policy
    WHERE p.adapter IS NOT NULL
),
reigned AS (
    SELECT adapter FROM champions WHERE adapter IS NOT NULL
    UNION
    SELECT champion FROM iterations WHERE champion IS NOT NULL
),
kept AS (
    SELECT adapter FROM reigned
    UNION
    SELECT adapter FROM taught_bases
    UNION
    SELECT l.source FROM kept k JOIN links l ON l.adapter = k.adapter
),
opened AS (
    SELECT c.adapter
    FROM candidates c
    JOIN iterations i ON i.campaign = c.campaign AND i.iteration = c.iteration
    WHERE i.finished IS NULL
    UNION
    SELECT c.adapter
    FROM candidates c
    WHERE c.role = 'control' AND NOT EXISTS (
        SELECT 1 FROM evaluation_uses u
        WHERE u.campaign = c.campaign AND u.iteration = c.iteration AND u.role = 'control')
    UNION
    SELECT adapter FROM candidates WHERE role = 'teaching'
),
ages AS (
    SELECT c.adapter, min(newest.iteration - c.iteration) AS newer
    FROM candidates c
    JOIN (SELECT campaign, max(iteration) AS iteration FROM iterations GROUP BY campaign) newest USING (campaign)
    GROUP BY c.adapter
)
SELECT a.id AS adapter, a.path, a.made,
       a.id IN (SELECT adapter FROM reigned) AS champion,
       a.id IN (SELECT adapter FROM kept) AS ancestor,
       a.id IN (SELECT adapter FROM opened) AS open,
       ages.newer
FROM adapters a
LEFT JOIN ages ON ages.adapter = a.id
ORDER BY a.number
