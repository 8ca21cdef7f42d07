"""Decisions about stored trajectories: what they are worth, which of them are trained on, which leave, which are forgotten.

The store keeps; this package decides, in SQL on the store's tables. Nothing here needs the model or the tools again.
"""
