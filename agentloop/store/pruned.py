"""Files that housekeeping has removed, and of which the database still tells everything else.

They are marked before they go: a file that is there in spite of its mark is the rest of a removal that was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentloop.store.clock import now
from agentloop.store.database import Database


@dataclass(frozen=True)
class Pruned:
    """An adapter whose files were removed."""

    bytes: int
    digest: str | None
    """SHA-256 of its weights (serving.adapters.weights_digest); None where they could not be read."""
    pruned: datetime
    """UTC."""


def mark_adapter(database: Database, adapter: str, *, size: int, digest: str | None) -> None:
    """Note that the files of an adapter are about to be removed; what is marked already stays as it is."""
    database.execute(
        "INSERT INTO pruned_adapters VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", [adapter, size, digest, now()]
    )


def clear_adapter(database: Database, adapter: str) -> None:
    """Note that the files are there again."""
    database.execute("DELETE FROM pruned_adapters WHERE adapter = ?", [adapter])


def adapters(database: Database) -> dict[str, Pruned]:
    """Return every adapter whose files were removed, by id."""
    rows = database.execute("SELECT adapter, bytes, digest, pruned FROM pruned_adapters")
    return {adapter: Pruned(*rest) for adapter, *rest in rows}


def mark_shards(database: Database, shards: Sequence[str], *, reason: str) -> None:
    """Note that the files of these shards (ids) are about to be removed, and why."""
    database.execute(
        "UPDATE shards SET status = 'pruned', reason = $reason WHERE id IN (SELECT unnest($shards)) AND status = 'ingested'",
        {"shards": list(shards), "reason": f"{now():%Y-%m-%d}: {reason}"},
    )


def clear_shard(database: Database, shard: str) -> None:
    """Note that the file is there again."""
    database.execute("UPDATE shards SET status = 'ingested', reason = NULL WHERE id = ? AND status = 'pruned'", [shard])


def shards(database: Database) -> set[str]:
    """Return the ids of all shards whose files were removed."""
    return {name for (name,) in database.execute("SELECT id FROM shards WHERE status = 'pruned'")}
