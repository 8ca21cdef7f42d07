-- Questions of the chosen rows.
CREATE OR REPLACE TEMP TABLE asked AS
SELECT DISTINCT p.task AS name, k.question AS text
FROM chosen c
JOIN pool p USING (trajectory)
JOIN tasks k ON k.id = p.task;
