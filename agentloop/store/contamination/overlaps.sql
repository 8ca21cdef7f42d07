-- Chosen rows whose question is nearly one that must not be trained on: a share of $share or more of the runs of 13 words
-- of the shorter text are in both. A text with fewer words is one run.
-- protected: (name, text); $share
WITH questions AS (
    SELECT DISTINCT p.task, k.question
    FROM chosen c
    JOIN pool p USING (trajectory)
    JOIN tasks k ON k.id = p.task
),
texts AS (
    SELECT true AS ours, task AS name, regexp_extract_all(lower(question), '[\p{L}\p{N}]+') AS words FROM questions
    UNION ALL
    SELECT false, name, regexp_extract_all(lower(text), '[\p{L}\p{N}]+') FROM protected
),
runs AS (
    SELECT ours, name, list_distinct(CASE
        WHEN len(words) < 13 THEN [hash(words)]
        ELSE list_transform(
            list_zip(words, words[2:], words[3:], words[4:], words[5:], words[6:], words[7:], words[8:], words[9:],
                     words[10:], words[11:], words[12:], words[13:], true), lambda run: hash(run))
    END) AS runs
    FROM texts
    WHERE len(words) > 0
),
single AS (
    SELECT ours, name, len(runs) AS total, unnest(runs) AS run
    FROM runs
),
shared AS (
    SELECT mine.name AS task, theirs.name
    FROM single mine
    JOIN single theirs ON theirs.run = mine.run AND mine.ours AND NOT theirs.ours
    GROUP BY mine.name, theirs.name, mine.total, theirs.total
    HAVING count(*) >= $share * least(mine.total, theirs.total)
)
SELECT c.trajectory, s.task, min(s.name) AS name
FROM chosen c
JOIN pool p USING (trajectory)
JOIN shared s ON s.task = p.task
GROUP BY c.trajectory, s.task, c.place
ORDER BY c.place;
