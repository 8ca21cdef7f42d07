"""How much of the disk is free, what takes how much of it, and how many nights still fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentloop import sizes, space
from agentloop.errors import AgentloopError
from agentloop.housekeeping import place
from agentloop.settings import Settings
from agentloop.store.database import Database

_DAYS = 7
"""Newest days with new shards that the rate is read from."""
_KINDS = ("shards", "adapters", "checkpoints", "datasets", "logs", "tensorboard", "prefect", "reports")
_SHOWN = 4
"""Kinds that a line names, the largest first."""
_QUERY = Path(__file__).parent / "queries" / "growth.sql"


@dataclass(frozen=True)
class Usage:
    free: int
    """Bytes."""
    reserve: int
    """Bytes of these that retention.reserve_gib keeps free."""
    kinds: dict[str, int]
    """Bytes by kind, the largest first."""
    night: int | None
    """Bytes that a day with new episodes has added of what is never removed by itself: shards, and the database's rows of them;
    None where there was none."""

    @property
    def nights(self) -> int | None:
        """Return how many more such days fit; None where the rate is not known."""
        return max(0, self.free - self.reserve) // self.night if self.night else None


def of(settings: Settings) -> Usage:
    """Measure it. Nothing is written, and the database is only looked at where it is at hand."""
    paths = settings.paths
    kinds = {name: place.total(paths.data, name) for name in _KINDS}
    files = {each.name: each.bytes for each in place.entries(paths.data)} if paths.data.is_dir() else {}
    database = paths.database.name
    kinds["database"] = sum(size for name, size in files.items() if name in (database, f"{database}.wal"))
    kinds["snapshots"] = sum(size for name, size in files.items() if name.endswith(".snapshot"))
    kinds["cache"] = sum(each.bytes for each in place.entries(paths.cache)) if paths.cache.is_dir() else 0
    kinds = dict(sorted(((name, size) for name, size in kinds.items() if size), key=lambda pair: -pair[1]))
    return Usage(space.free(paths.data), settings.retention.reserve, kinds, _night(settings, kinds.get("database", 0)))


def told(usage: Usage) -> str:
    """One line: free, what takes most, nights."""
    largest = ", ".join(f"{name} {sizes.said(size)}" for name, size in list(usage.kinds.items())[:_SHOWN])
    taken = f"; data takes {sizes.said(sum(usage.kinds.values()))} ({largest})" if largest else ""
    nights = ""
    if usage.nights is not None and usage.night is not None:
        many = f"{usage.nights:,}" if usage.nights < 10_000 else "more than 10,000"
        nights = f"; {many} more nights fit at {sizes.said(usage.night)} a night"
    return f"{sizes.said(usage.free)} free{taken}{nights}"


def _night(settings: Settings, database: int) -> int | None:
    path = settings.paths.database
    if not path.is_file():
        return None
    try:
        with Database.open_snapshot(path) as opened:
            rows = opened.arrow(_QUERY.read_text(encoding="utf-8"), {"days": _DAYS}).to_pylist()
            ((everything,),) = opened.execute("SELECT count(*) FROM trajectories")
    except AgentloopError:  # in use, or damaged, which others say
        return None
    if not rows or not everything:
        return None
    shards = sum(row["bytes"] for row in rows)
    kept = database * sum(row["trajectories"] for row in rows) / everything
    return max(1, int((shards + kept) / len(rows)))
