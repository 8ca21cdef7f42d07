"""What the database says of the files: which adapters, trainings and shards something still needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agentloop.errors import NoSpaceError
from agentloop.store import pruned
from agentloop.store.database import Database

QUERIES = Path(__file__).parent / "queries"


@dataclass(frozen=True)
class AdapterFacts:
    adapter: str
    path: Path
    made: datetime
    """UTC."""
    champion: bool
    """It is, or was, champion of a campaign."""
    ancestor: bool
    """A champion, or a base that was taught, descends from it."""
    open: bool
    """Something is still to be done with it: its iteration is not finished, or it is a control that is not measured."""
    newer: int | None
    """Iterations of its campaign after the one that it was made in; None where no campaign has it."""
    pruned: bool
    """An earlier `prune` has marked it, and may have been interrupted before it had removed it."""


@dataclass(frozen=True)
class ShardFacts:
    shard: str
    path: Path
    seen: datetime
    """UTC."""
    trajectories: int
    campaigns: frozenset[str]
    chosen: int
    """Rows that datasets hold."""
    measured: bool
    """Evaluations, or demonstrations, were made of it."""
    open: bool
    """An iteration that uses it is not finished."""
    pruned: bool


@dataclass(frozen=True)
class Facts:
    adapters: dict[str, AdapterFacts]
    shards: dict[str, ShardFacts]
    finished: frozenset[str]
    """Adapters whose training is finished and recorded."""
    settled: frozenset[str]
    """Datasets on which nothing is trained any more."""
    campaigns: frozenset[str]
    iterations: frozenset[tuple[str, int]]
    """Campaign and number of each finished iteration."""


NOTHING = Facts({}, {}, frozenset(), frozenset(), frozenset(), frozenset())
"""Where there is no database yet."""


def read(database: Database) -> Facts:
    """Everything that the rules ask for."""
    gone = pruned.adapters(database)
    adapters = [
        AdapterFacts(
            row["adapter"],
            database.resolve(row["path"]),
            row["made"],
            row["champion"],
            row["ancestor"],
            row["open"],
            row["newer"],
            row["adapter"] in gone,
        )
        for row in _rows(database, "adapters")
    ]
    shards = [
        ShardFacts(
            row["shard"],
            database.resolve(row["path"]),
            row["seen"],
            row["trajectories"] or 0,
            frozenset(row["campaigns"]),
            row["chosen"],
            row["measured"],
            row["open"],
            row["status"] == "pruned",
        )
        for row in _rows(database, "shards")
    ]
    trainings = _rows(database, "trainings")
    busy = {row["dataset"] for row in trainings if not row["done"]}
    return Facts(
        {each.adapter: each for each in adapters},
        {each.shard: each for each in shards},
        frozenset(row["adapter"] for row in trainings if row["done"]),
        frozenset(row["dataset"] for row in trainings) - busy,
        frozenset(name for (name,) in database.execute("SELECT name FROM campaigns")),
        frozenset(database.execute("SELECT campaign, iteration FROM iterations WHERE finished IS NOT NULL")),
    )


def look(path: Path) -> Facts:
    """Facts from a copy of the database, while a run may be writing; on a full disk from the database itself.

    Raises StoreError.
    """
    if not path.is_file():
        return NOTHING
    try:
        with Database.open_snapshot(path) as database:
            return read(database)
    except NoSpaceError:
        with Database.open(path, read_only=True) as database:
            return read(database)


def _rows(database: Database, name: str) -> list[dict[str, Any]]:
    return database.arrow((QUERIES / f"{name}.sql").read_text(encoding="utf-8")).to_pylist()
