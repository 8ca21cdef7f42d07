-- Texts that are nearly the same as an earlier one of their block, and the earliest such. Words are runs of letters and
-- digits, and each other character that is no space; in scripts without spaces two or four characters.
-- Each text is compared with the first of those that have one of its $sketch smallest hashes, or all of its runs.
-- What most texts of a family say, of $template or more, is its template, and says nothing of a text: such runs are left out,
-- unless a text has no others.
-- texts: (name, block, place, family, text), a family may be NULL; plain: (text, plain); $sketch, $max_overlap, $template; the
-- functions of wording.sql
CREATE OR REPLACE TEMP TABLE near AS
WITH worded AS (
    SELECT name, block, place, family, plain, stretch_of(plain) AS stretch,
           list_transform(words_and_signs_of(plain), lambda word: hash(word)) AS words
    FROM texts
    JOIN plain USING (text)
),
fives AS (
    SELECT *, list_transform(
        list_zip(words, words[2:], words[3:], words[4:], words[5:], true), lambda run: hash(run)) AS fives
    FROM worded
    WHERE len(words) > 0
),
hashed AS (
    SELECT name, block, place, family, plain, list_distinct(CASE
        WHEN len(words) < 5 * stretch THEN [hash(words)]
        WHEN stretch = 1 THEN fives
        WHEN stretch = 2 THEN list_transform(list_zip(fives, fives[6:], true), lambda run: hash(run))
        ELSE list_transform(list_zip(fives, fives[6:], fives[11:], fives[16:], true), lambda run: hash(run))
    END) AS runs
    FROM fives
),
templates AS (
    SELECT family, run
    FROM (SELECT family, plain, unnest(any_value(runs)) AS run FROM hashed WHERE family IS NOT NULL GROUP BY family, plain)
    JOIN (SELECT family, count(DISTINCT plain) AS texts FROM hashed GROUP BY family) USING (family)
    WHERE texts >= $template
    GROUP BY family, run, texts
    HAVING count(*) > texts / 2
),
telling AS (
    SELECT h.name, h.block, h.place, CASE
        WHEN t.runs IS NULL THEN h.runs
        ELSE coalesce(nullif(list_filter(h.runs, lambda run: NOT list_contains(t.runs, run)), []), [hash(list_sort(h.runs))])
    END AS runs
    FROM hashed h
    LEFT JOIN (SELECT family, list(run) AS runs FROM templates GROUP BY family) t USING (family)
),
sketched AS (
    SELECT name, block, place, unnest(list_append(list_sort(runs)[:$sketch], hash(list_sort(runs)))) AS run
    FROM telling
),
met AS (
    SELECT name, first_value(name) OVER same AS earlier
    FROM sketched
    WINDOW same AS (PARTITION BY block, run ORDER BY place, name)
),
compared AS (
    SELECT m.name, m.earlier, mine.place, theirs.place AS first,
           len(list_intersect(mine.runs, theirs.runs)) AS common, len(mine.runs) + len(theirs.runs) AS total
    FROM (SELECT DISTINCT name, earlier FROM met WHERE name <> earlier) m
    JOIN telling mine ON mine.name = m.name
    JOIN telling theirs ON theirs.name = m.earlier
)
SELECT name, arg_min(earlier, first) AS earlier, any_value(place) AS place
FROM compared
WHERE common > $max_overlap * (total - common)
GROUP BY name;
