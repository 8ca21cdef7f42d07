-- $base, $longest, $tokens. Collected trajectories of one base model, in the order of their names, until they have so many
-- tokens together.
WITH usable AS (
    SELECT t.id, sum(t.tokens) OVER (ORDER BY t.id) - t.tokens AS before
    FROM trajectories t
    JOIN policies p ON p.id = t.policy
    WHERE starts_with(p.base, $base)
      AND t.status <> 'failed' AND t.model_tokens > 0 AND t.tokens BETWEEN 2 AND $longest
      AND t.id IN (SELECT trajectory FROM collected WHERE purpose = 'collect')
)
SELECT id FROM usable WHERE before < $tokens ORDER BY id
