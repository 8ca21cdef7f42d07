"""The removal: what the plan says, in an order in which a kill at any moment leaves nothing that is told wrongly.

What needs no word in the database goes first, so that on a full disk there is room for the rest. Adapters and shards are
marked in the database before their files go: what is marked and still there goes next time, and what is gone is never
looked for as work to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentloop.housekeeping import place, plan, thinning
from agentloop.housekeeping.place import Entry
from agentloop.housekeeping.plan import LOG_END, Kind
from agentloop.housekeeping.rules import ShardChoice
from agentloop.serving.adapters import weights_digest
from agentloop.settings import Settings
from agentloop.store import pruned
from agentloop.store.database import Database


@dataclass(frozen=True)
class Removed:
    kind: str
    rule: str
    entries: int
    files: int
    bytes: int


def carry_out(settings: Settings, *, shards: ShardChoice | None = None) -> list[Removed]:
    """Remove what the plan says now. Only for the owner of the data root. Raises StoreError, SettingError, DiskError."""
    decided = plan.look(settings, shards=shards)
    removed = []
    for kind in decided.kinds:
        kept = 0
        if kind.going and kind.name == "adapters":
            with Database.open(settings.paths.database) as database:
                _mark_adapters(database, kind)
        if kind.going and kind.name == "shards":
            with Database.open(settings.paths.database) as database:
                kept = _mark_shards(database, kind, shards)
        removed.append(_remove(kind, kept))
    return removed


def _mark_adapters(database: Database, kind: Kind) -> None:
    with database.transaction():
        for each in kind.going:
            pruned.mark_adapter(database, each.name, size=each.bytes, digest=weights_digest(each.path))


def _mark_shards(database: Database, kind: Kind, choice: ShardChoice | None) -> int:
    """Returns the bytes of the rows that datasets hold, which are in shards of their own now."""
    reason, kept = f"agentloop prune --shards {choice or ''}".strip(), 0
    for each in kind.going:
        shard = each.path.stem
        thinned = thinning.thin(database, each.path, shard)
        pruned.mark_shards(database, [shard], reason=reason)
        kept += thinned.stat().st_blocks * 512 if thinned else 0
    return kept


def _remove(kind: Kind, kept: int) -> Removed:
    gone = [each for each in kind.going if place.remove(each)]
    size = sum(each.bytes for each in gone) + sum(map(_cut, kind.cut)) - kept
    return Removed(kind.name, kind.rule, len(gone), sum(each.files for each in gone), size)


def _cut(log: Entry) -> int:
    """Leave the end of a log that is being written; its writer appends. Returns the bytes that went."""
    with place.opened_file(log) as descriptor:
        if descriptor is None:
            return 0
        size = os.fstat(descriptor).st_size
        end = os.pread(descriptor, LOG_END, max(0, size - LOG_END))
        os.pwrite(descriptor, end, 0)
        os.ftruncate(descriptor, len(end))
        return size - len(end)
