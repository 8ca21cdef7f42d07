-- Texts that are nearly the same as an earlier one of their block, and the earliest such. Words are runs of letters and
-- digits, and each other character that is no space; in scripts without spaces two or four characters.
-- Each text is compared with the first of those that have one of its $sketch smallest hashes, or all of its runs.
-- texts: (name, block, place, text); plain: (text, plain); $sketch, $max_overlap; the functions of wording.sql
CREATE OR REPLACE TEMP TABLE near AS
WITH worded AS (
    SELECT name, block, place, stretch_of(plain) AS stretch,
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
    SELECT name, block, place, list_distinct(CASE
        WHEN len(words) < 5 * stretch THEN [hash(words)]
        WHEN stretch = 1 THEN fives
        WHEN stretch = 2 THEN list_transform(list_zip(fives, fives[6:], true), lambda run: hash(run))
        ELSE list_transform(list_zip(fives, fives[6:], fives[11:], fives[16:], true), lambda run: hash(run))
    END) AS runs
    FROM fives
),
sketched AS (
    SELECT name, block, place, unnest(list_append(list_sort(runs)[:$sketch], hash(list_sort(runs)))) AS run
    FROM hashed
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
    JOIN hashed mine ON mine.name = m.name
    JOIN hashed theirs ON theirs.name = m.earlier
)
SELECT name, arg_min(earlier, first) AS earlier, any_value(place) AS place
FROM compared
WHERE common > $max_overlap * (total - common)
GROUP BY name;
