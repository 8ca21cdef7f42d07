"""Policies that acted: base, adapter and prompt format by policy id."""

from __future__ import annotations

from agentloop.records import Policy
from agentloop.store.database import Database


def save(database: Database, policy: Policy) -> None:
    """Store a policy; once only."""
    raise NotImplementedError


def load(database: Database, policy_id: str) -> Policy:
    """Raises StoreError for an unknown id."""
    raise NotImplementedError
