-- A task that was ever held out stays held out, whatever a later shard says.
UPDATE tasks SET split = 'heldout'
WHERE split <> 'heldout' AND id IN (SELECT task FROM incoming WHERE split = 'heldout');
