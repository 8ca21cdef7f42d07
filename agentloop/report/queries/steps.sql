-- $campaign. The ledger, in the order in which the steps were last begun.
SELECT iteration, name, status, started, finished, error, tries
FROM steps
WHERE campaign = $campaign
ORDER BY started, finished NULLS LAST, key
