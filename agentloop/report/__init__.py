"""What a person looks at: the table that a run ends with, the state of a campaign, its page of figures and episodes.

Everything shown is read from the database or the shards; the only thing computed here is what compares two stored
evaluations, and that by the gate's own statistics.
"""
