-- $campaign. The ledger, in the order in which the steps were last begun.
SELECT iteration, name, status, started, finished, error, tries, ended
FROM steps
WHERE campaign = $campaign
ORDER BY begun
