-- Every training: adapter, dataset, done (its adapter is registered, so nothing of the training is continued any more)
SELECT r.adapter, r.dataset, r.finished IS NOT NULL AND r.adapter IN (SELECT id FROM adapters) AS done
FROM training_runs r
