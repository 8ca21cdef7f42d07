-- Chosen rows whose question is nearly one that must not be trained on: a share of $share or more of the runs of 13 words
-- of the shorter text are in both. A text with fewer words is one run. In scripts without spaces a word is two or four
-- characters, by the text that must not be trained on.
-- asked, protected: (name, text); plain: (text, plain); $share; the functions of wording.sql
WITH texts AS (
    SELECT true AS ours, name, plain AS text FROM asked JOIN plain USING (text)
    UNION ALL
    SELECT false, name, plain FROM protected JOIN plain USING (text)
),
worded AS (
    SELECT ours, name, words_of(text) AS words, CASE WHEN ours THEN NULL ELSE stretch_of(text) END AS stretch
    FROM texts
),
stretches AS (
    SELECT DISTINCT stretch FROM worded WHERE NOT ours
),
stretched AS (
    SELECT ours, name, words, s.stretch, list_transform(
        list_zip(words, words[2:], words[3:], words[4:], words[5:], words[6:], words[7:], words[8:], words[9:],
                 words[10:], words[11:], words[12:], words[13:], true), lambda run: hash(run)) AS thirteens
    FROM worded w
    JOIN stretches s ON w.ours OR w.stretch = s.stretch
    WHERE len(words) > 0
),
runs AS (
    SELECT ours, name, stretch, list_distinct(CASE
        WHEN len(words) < 13 * stretch THEN [hash(words)]
        WHEN stretch = 1 THEN thirteens
        WHEN stretch = 2 THEN list_transform(list_zip(thirteens, thirteens[14:], true), lambda run: hash(run))
        ELSE list_transform(
            list_zip(thirteens, thirteens[14:], thirteens[27:], thirteens[40:], true), lambda run: hash(run))
    END) AS runs
    FROM stretched
),
single AS (
    SELECT ours, name, stretch, len(runs) AS total, unnest(runs) AS run
    FROM runs
),
shared AS (
    SELECT mine.name AS task, theirs.name
    FROM single mine
    JOIN single theirs ON theirs.run = mine.run AND theirs.stretch = mine.stretch AND mine.ours AND NOT theirs.ours
    GROUP BY mine.name, theirs.name, mine.total, theirs.total
    HAVING count(*) >= $share * least(mine.total, theirs.total)
)
SELECT c.trajectory, s.task, min(s.name) AS name
FROM chosen c
JOIN pool p USING (trajectory)
JOIN shared s ON s.task = p.task
GROUP BY c.trajectory, s.task, c.place
ORDER BY c.place;
