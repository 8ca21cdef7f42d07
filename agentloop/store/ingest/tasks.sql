INSERT INTO tasks
SELECT task, any_value(environment), any_value(family), any_value(question), any_value(expected), min(split),
       any_value(payload)
FROM incoming
GROUP BY task
ON CONFLICT DO NOTHING;
