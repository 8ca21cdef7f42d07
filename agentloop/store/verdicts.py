"""Verdicts: what the gate decided, and on which two evaluations."""

from __future__ import annotations

from agentloop.records import Verdict
from agentloop.store.database import Database


def save(database: Database, verdict: Verdict, *, campaign: str, iteration: int, adapter: str) -> str:
    """Store the verdict on an adapter; once only. Returns its id (`verdict_…`)."""
    raise NotImplementedError


def load(database: Database, verdict_id: str) -> Verdict:
    """Raises StoreError for an unknown id."""
    raise NotImplementedError
