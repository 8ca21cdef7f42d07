-- $campaign. How the base was judged before anything was trained on it: results of the steps, as JSON.
SELECT name, result
FROM steps
WHERE campaign = $campaign AND status = 'done' AND name IN ('judge', 'compare')
ORDER BY ended
