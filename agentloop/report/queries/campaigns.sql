-- Every campaign, the newest first.
SELECT c.name, c.started, c.updated, (c.settings ->> '$.iterations')::INTEGER AS planned,
       (SELECT count(*) FROM iterations i WHERE i.campaign = c.name AND i.finished IS NOT NULL) AS done
FROM campaigns c
ORDER BY c.number DESC
