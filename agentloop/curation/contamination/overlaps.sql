-- Chosen rows whose question is nearly one that must not be trained on: a share of $share or more of the runs of 13 words
-- of the shorter text are in both. A text with fewer words is one run. In scripts without spaces a word is two or four
-- characters, by the text that must not be trained on.
-- What most texts of a family say that must not be trained on, of $template or more, is its template, and says nothing of a
-- text: such runs are left out, unless a text has no others.
-- asked: (name, text); protected: (name, text, family), a family may be NULL; plain: (text, plain); $share, $template; the
-- functions of wording.sql
WITH texts AS (
    SELECT true AS ours, name, NULL AS family, plain AS text FROM asked JOIN plain USING (text)
    UNION ALL
    SELECT false, name, family, plain FROM protected JOIN plain USING (text)
),
worded AS (
    SELECT ours, name, family, text, words_of(text) AS words, CASE WHEN ours THEN NULL ELSE stretch_of(text) END AS stretch
    FROM texts
),
stretches AS (
    SELECT DISTINCT stretch FROM worded WHERE NOT ours
),
stretched AS (
    SELECT ours, name, family, text, words, s.stretch, list_transform(
        list_zip(words, words[2:], words[3:], words[4:], words[5:], words[6:], words[7:], words[8:], words[9:],
                 words[10:], words[11:], words[12:], words[13:], true), lambda run: hash(run)) AS thirteens
    FROM worded w
    JOIN stretches s ON w.ours OR w.stretch = s.stretch
    WHERE len(words) > 0
),
runs AS (
    SELECT ours, name, family, text, stretch, list_distinct(CASE
        WHEN len(words) < 13 * stretch THEN [hash(words)]
        WHEN stretch = 1 THEN thirteens
        WHEN stretch = 2 THEN list_transform(list_zip(thirteens, thirteens[14:], true), lambda run: hash(run))
        ELSE list_transform(
            list_zip(thirteens, thirteens[14:], thirteens[27:], thirteens[40:], true), lambda run: hash(run))
    END) AS runs
    FROM stretched
),
templates AS (
    SELECT DISTINCT stretch, run
    FROM (
        SELECT family, stretch, text, unnest(any_value(runs)) AS run
        FROM runs WHERE family IS NOT NULL GROUP BY family, stretch, text
    )
    JOIN (SELECT family, stretch, count(DISTINCT text) AS texts FROM runs GROUP BY family, stretch) USING (family, stretch)
    WHERE texts >= $template
    GROUP BY family, stretch, run, texts
    HAVING count(*) > texts / 2
),
telling AS (
    SELECT r.ours, r.name, r.stretch, CASE
        WHEN t.runs IS NULL THEN r.runs
        ELSE coalesce(nullif(list_filter(r.runs, lambda run: NOT list_contains(t.runs, run)), []), [hash(list_sort(r.runs))])
    END AS runs
    FROM runs r
    LEFT JOIN (SELECT stretch, list(run) AS runs FROM templates GROUP BY stretch) t USING (stretch)
),
single AS (
    SELECT ours, name, stretch, len(runs) AS total, unnest(runs) AS run
    FROM telling
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
