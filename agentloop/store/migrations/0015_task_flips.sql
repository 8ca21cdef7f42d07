-- What the challenger changed, task by task: the unit that the gate counts.
CREATE VIEW v_task_flips AS
SELECT v.campaign, v.iteration, v.id AS verdict, before.task, any_value(k.question) AS question, count(*) AS samples,
       count(*) FILTER (before.solved) AS champion, count(*) FILTER (after.solved) AS challenger,
       CASE WHEN count(*) FILTER (after.solved) > count(*) FILTER (before.solved) THEN 'gained' ELSE 'lost' END AS flip
FROM v_verdicts v
JOIN evaluation_results before ON before.evaluation = v.champion
JOIN evaluation_results after
    ON after.evaluation = v.challenger AND after.task = before.task AND after.sample = before.sample
LEFT JOIN tasks k ON k.id = before.task
GROUP BY v.campaign, v.iteration, v.id, before.task
HAVING count(*) FILTER (before.solved) <> count(*) FILTER (after.solved);

COMMENT ON VIEW v_task_flips IS 'Tasks of which the challenger solved more or fewer samples than the champion, as the gate counts them';
COMMENT ON COLUMN v_task_flips.campaign IS 'campaign';
COMMENT ON COLUMN v_task_flips.iteration IS 'from 1';
COMMENT ON COLUMN v_task_flips.verdict IS 'verdict_…';
COMMENT ON COLUMN v_task_flips.task IS 'task_…';
COMMENT ON COLUMN v_task_flips.question IS 'as asked';
COMMENT ON COLUMN v_task_flips.samples IS 'that both played';
COMMENT ON COLUMN v_task_flips.champion IS 'samples that the champion solved';
COMMENT ON COLUMN v_task_flips.challenger IS 'samples that the challenger solved';
COMMENT ON COLUMN v_task_flips.flip IS 'gained: the challenger solved more; lost: fewer';
