INSERT INTO turns
WITH spans AS (
    SELECT id, unnest(turns) AS turn, generate_subscripts(turns, 1) - 1 AS position
    FROM incoming
    WHERE fresh
)
SELECT id, position, turn.role, turn.text, turn.token_start, turn.token_end, turn.tool, turn.arguments, turn.error
FROM spans;
