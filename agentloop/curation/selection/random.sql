-- The matched control: as many trajectories as the dataset it controls for, without a look at their success.
-- rules: short enough, drawn
WITH shuffled AS (
    SELECT *, CASE WHEN tokens > $max_tokens THEN 'short enough' END AS failed,
           md5(concat($seed, ' ', trajectory)) AS draw
    FROM pool
),
drawn AS (
    SELECT * REPLACE (coalesce(failed, CASE
        WHEN row_number() OVER (PARTITION BY failed IS NULL ORDER BY draw) > $size THEN 'drawn'
    END) AS failed)
    FROM shuffled
)
SELECT trajectory, failed, row_number() OVER (ORDER BY draw) AS place
FROM drawn
