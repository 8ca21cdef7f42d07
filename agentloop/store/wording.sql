-- Functions for queries that compare plain texts (wording.py) by their runs of words.

-- A plain text with spaces around the characters of scripts that put none between words.
CREATE OR REPLACE TEMP MACRO spread_text(plain) AS
    regexp_replace(
        plain,
        '([\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\x{3005}-\x{3007}\x{30FC}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Viet}\p{Javanese}\p{Balinese}])',
        ' \1 ', 'g');

-- Its words: runs of letters, marks and digits, and each character of those scripts.
CREATE OR REPLACE TEMP MACRO words_of(plain) AS
    regexp_extract_all(spread_text(plain), '[\p{L}\p{M}\p{N}]+');

-- The same and each sign.
CREATE OR REPLACE TEMP MACRO words_and_signs_of(plain) AS
    regexp_extract_all(spread_text(plain), '[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]');

-- How many of `words_of` say as much as one word of a language with spaces, as the nearest of 1, 2 and 4: two characters of
-- Chinese or Japanese are about a word, four letters of Thai and its like.
CREATE OR REPLACE TEMP MACRO stretch_of(plain) AS
    CASE
        WHEN regexp_full_match(plain, '[\x00-\x7F]*') THEN 1
        ELSE list_transform(
            [list_transform(
                words_of(plain),
                lambda word: CASE
                    WHEN regexp_full_match(word, '[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Viet}\p{Javanese}\p{Balinese}]') THEN 0.25
                    WHEN regexp_full_match(word, '[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\x{3005}-\x{3007}\x{30FC}]') THEN 0.5
                    ELSE 1.0
                END)],
            lambda weights: CASE
                WHEN len(weights) < 1.5 * list_sum(weights) OR len(weights) = 0 THEN 1
                WHEN len(weights) < 3 * list_sum(weights) THEN 2
                ELSE 4
            END)[1]
    END;
