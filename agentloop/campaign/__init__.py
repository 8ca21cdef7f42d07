"""The steps of a campaign, each a function that can be run again at any time.

A step first looks in the ledger and on disk, does what is missing, and records its result under a name made of everything
that determines it. The steps know nothing of Prefect; flows/ puts them in order.
"""
