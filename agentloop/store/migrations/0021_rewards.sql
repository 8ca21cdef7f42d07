-- What a row of a dataset was worth when it was chosen, where failures are learnt from as well (training.objective). NULL: all rows
-- are successes, or pairs.
ALTER TABLE dataset_rows ADD COLUMN reward DOUBLE;
