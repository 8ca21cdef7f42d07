"""What a person looks at: the table at the end of a run, the state of a campaign, and its page with plots and trajectories.

Everything shown is read from the database or the shards; the only thing computed here is what compares two stored
evaluations, and that by the gate's own statistics.
"""
