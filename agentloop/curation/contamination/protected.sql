-- Texts that no training question may resemble: questions of held-out tasks and a user's benchmark prompts.
-- $prompts, $names: lists of the same length
CREATE OR REPLACE TEMP TABLE protected AS
SELECT 'task ' || id AS name, environment || ' ' || family AS family, question AS text
FROM tasks
WHERE split = 'heldout' OR id IN (SELECT task FROM evaluation_results)
UNION ALL
SELECT unnest($names), NULL, unnest($prompts);
