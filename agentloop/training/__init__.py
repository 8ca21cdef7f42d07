"""Fine-tuning an adapter on stored token ids, in a child process that can be killed at any moment."""

CODE_VERSION = "2"
"""Part of every adapter's name. Raise it when the same inputs would give other weights."""
