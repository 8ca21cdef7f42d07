"""Forgetting: trajectories that must not be trained on any more, and what has been trained on them already.

A forgotten trajectory stays in the database and in its shard, so that lineage stays true, but no selection takes it. Of a
forgotten task that also holds for what is collected later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentloop.errors import StoreError
from agentloop.records import Dataset
from agentloop.store import datasets
from agentloop.store.clock import now
from agentloop.store.database import Database


@dataclass(frozen=True)
class Forgotten:
    trajectories: tuple[str, ...]
    """All that the request names, those that were forgotten before included."""
    datasets: tuple[str, ...]
    """Datasets that hold one of them."""
    adapters: tuple[str, ...]
    """Adapters trained on these datasets."""
    descendants: tuple[str, ...]
    """Adapters that continue one of those, or were trained on trajectories that one of those produced."""


def forget(
    database: Database, *, trajectories: Sequence[str] = (), tasks: Sequence[str] = (), reason: str
) -> Forgotten:
    """Mark trajectories, by id or by task id, and list what they went into. Raises StoreError for an unknown id."""
    named = {"trajectories": list(trajectories), "tasks": list(tasks)}
    for kind, column, ids in (("trajectory", "id", trajectories), ("task", "task", tasks)):
        known = {
            name
            for (name,) in database.execute(
                f"SELECT DISTINCT {column} FROM trajectories WHERE {column} IN (SELECT unnest($ids))",
                {"ids": list(ids)},
            )
        }
        for name in ids:
            if name not in known:
                raise StoreError(f"{database.path}: no {kind} {name} among the trajectories")
    where = "FROM trajectories WHERE id IN (SELECT unnest($trajectories)) OR task IN (SELECT unnest($tasks))"
    with database.transaction():
        database.execute(
            f"INSERT INTO forgotten SELECT id, $reason, $now {where} ON CONFLICT DO NOTHING",
            named | {"reason": reason, "now": now()},
        )
        database.execute(
            "INSERT INTO forgotten_tasks SELECT unnest($tasks), $reason, $now ON CONFLICT DO NOTHING",
            {"tasks": list(tasks), "reason": reason, "now": now()},
        )
        rows = [name for (name,) in database.execute(f"SELECT id {where} ORDER BY id", named)]
    touched = _names(database, "SELECT DISTINCT dataset FROM dataset_rows WHERE trajectory IN (SELECT unnest(?))", rows)
    trained = _names(database, "SELECT id FROM adapters WHERE dataset IN (SELECT unnest(?))", touched)
    return Forgotten(tuple(rows), tuple(touched), tuple(trained), tuple(_descendants(database, trained)))


def rebuild(database: Database, dataset_id: str) -> Dataset | None:
    """The dataset without its forgotten rows, stored under its own name for the iterations that had chosen it.

    Of a preference pair both rows go. The same dataset where none is forgotten, None where nothing is left. Raises
    StoreError for an unknown dataset.
    """
    dataset = datasets.load(database, dataset_id)
    gone = set(
        _names(
            database,
            "SELECT trajectory FROM forgotten WHERE trajectory IN (SELECT unnest(?))",
            list(dataset.trajectories),
        )
    )
    together = 2 if dataset.parameters.get("pairs") else 1
    rows = dataset.trajectories
    groups = [rows[first : first + together] for first in range(0, len(rows), together)]
    left = tuple(row for group in groups if gone.isdisjoint(group) for row in group)
    if not left:
        return None
    rewards = tuple(reward for row, reward in zip(rows, dataset.rewards) if row not in gone)
    rebuilt = Dataset(left, dataset.recipe, dataset.parameters, rewards)
    for campaign, iteration in database.execute(
        "SELECT campaign, iteration FROM selections WHERE dataset = ? ORDER BY ALL", [dataset_id]
    ):
        datasets.save(
            database,
            rebuilt,
            campaign=campaign,
            iteration=iteration,
            funnel=((dataset_id, len(rows)), ("not forgotten", len(left))),
        )
    return rebuilt


def _descendants(database: Database, trained: list[str]) -> list[str]:
    """Children of adapters, by continuation or by the trajectories that they produced, their children, and so on."""
    found: list[str] = []
    frontier = trained
    while frontier:
        children = _names(
            database,
            """
            SELECT id FROM adapters WHERE parent IN (SELECT unnest(?))
            UNION
            SELECT adapter FROM v_lineage WHERE source IN (SELECT unnest(?))
            """,
            frontier,
            frontier,
        )
        frontier = [child for child in children if child not in (*trained, *found)]
        found += frontier
    return found


def _names(database: Database, query: str, *ids: list[str]) -> list[str]:
    return sorted(name for (name,) in database.execute(query, ids))
