"""Policies that acted: base, adapter and prompt format by policy id."""

from __future__ import annotations

from agentloop.errors import StoreError
from agentloop.records import Policy
from agentloop.store.database import Database


def save(database: Database, policy: Policy) -> None:
    """Store a policy; once only."""
    database.execute(
        "INSERT INTO policies VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [policy.id, policy.base, policy.adapter, policy.prompt],
    )


def load(database: Database, policy_id: str) -> Policy:
    """Raises StoreError for an unknown id."""
    rows = database.execute("SELECT base, adapter, prompt FROM policies WHERE id = ?", [policy_id])
    if not rows:
        raise StoreError(f"{database.path}: no policy {policy_id}")
    return Policy(*rows[0])
