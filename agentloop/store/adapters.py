"""Adapters: LoRA weights by name, with everything that determines them and the directory that holds them."""

from __future__ import annotations

from pathlib import Path

from agentloop.records import Adapter
from agentloop.store.database import Database


def save(database: Database, adapter: Adapter, *, path: Path, campaign: str, iteration: int, role: str = "challenger") -> None:
    """Store a finished adapter; once only. `role`: challenger or control."""
    raise NotImplementedError


def load(database: Database, adapter_id: str) -> Adapter:
    """Raises StoreError for an unknown id."""
    raise NotImplementedError


def directory(database: Database, adapter_id: str) -> Path:
    """Where the adapter's files lie. Raises StoreError for an unknown id."""
    raise NotImplementedError
