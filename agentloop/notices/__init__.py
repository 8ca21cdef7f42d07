"""Notices: what a person is told when a run ends or the disk runs low, and the ways that tell it."""
