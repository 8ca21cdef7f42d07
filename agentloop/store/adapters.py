"""Adapters: LoRA weights by name, with everything that determines them and the directory that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from agentloop.errors import AdapterError, StoreError
from agentloop.naming import canonical_json
from agentloop.records import Adapter
from agentloop.store import pruned
from agentloop.store.clock import now
from agentloop.store.database import Database

Role = Literal["challenger", "control", "teaching"]


def save(
    database: Database, adapter: Adapter, *, path: Path, campaign: str, iteration: int, role: Role = "challenger"
) -> None:
    """Store a finished adapter, whose files are there, and what an iteration made it for; once only."""
    with database.transaction():
        pruned.clear_adapter(database, adapter.id)
        database.execute(
            """
            INSERT INTO adapters
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(number), 0) + 1 FROM adapters))
            ON CONFLICT DO NOTHING
            """,
            [
                adapter.id,
                adapter.base,
                adapter.dataset,
                canonical_json(adapter.training),
                adapter.seed,
                adapter.code,
                adapter.parent,
                database.relative(path),
                now(),
            ],
        )
        database.execute(
            "INSERT INTO candidates VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", [campaign, iteration, role, adapter.id]
        )


def load(database: Database, adapter_id: str) -> Adapter:
    """Raises StoreError for an unknown id."""
    base, dataset, training, seed, code, parent = _row(
        database, adapter_id, "base, dataset, training, seed, code, parent"
    )
    return Adapter(base, dataset, json.loads(training), seed, code, parent)


def directory(database: Database, adapter_id: str) -> Path:
    """Return the folder of the adapter's files, also where they are gone. Raises StoreError for an unknown id."""
    return database.resolve(*_row(database, adapter_id, "path"))


def weights(database: Database, adapter_id: str) -> Path:
    """Return the folder that holds the adapter's weights. Raises AdapterError where they are gone, StoreError as `load`."""
    folder = directory(database, adapter_id)
    if mark := pruned.adapters(database).get(adapter_id):
        raise AdapterError(gone(adapter_id, mark))
    if not folder.is_dir():
        raise AdapterError(f"{folder}: the weights of {adapter_id} are gone")
    return folder


def gone(adapter_id: str, mark: pruned.Pruned) -> str:
    """Return what a person is told who asks for weights that were pruned."""
    when = f"{mark.pruned:%Y-%m-%d}"
    return f"{adapter_id}: its weights were pruned on {when}; `agentloop reproduce {adapter_id}` makes them again"


def campaigns(database: Database, adapter_id: str) -> list[str]:
    """Return the names of the campaigns that made the adapter."""
    rows = database.execute("SELECT campaign FROM candidates WHERE adapter = ? ORDER BY campaign", [adapter_id])
    return [campaign for (campaign,) in rows]


def _row(database: Database, adapter_id: str, columns: str) -> tuple:
    rows = database.execute(f"SELECT {columns} FROM adapters WHERE id = ?", [adapter_id])
    if not rows:
        raise StoreError(f"{database.path}: no adapter {adapter_id}")
    return rows[0]
