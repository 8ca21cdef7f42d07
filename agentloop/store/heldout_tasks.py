"""The held-out tasks that a campaign has taken, by environment and in order."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop.records import Task
from agentloop.store import tasks
from agentloop.store.database import Database


def append(database: Database, campaign: str, environment: str, first: int, new: Sequence[Task]) -> None:
    """Note known tasks at the places from `first` on, counted from 0. A place that is taken stays as it is."""
    database.execute(
        """
        INSERT INTO heldout_tasks
        SELECT $campaign, $environment, $first - 1 + unnest(range(1, len($tasks::VARCHAR[]) + 1)), unnest($tasks::VARCHAR[])
        ON CONFLICT DO NOTHING
        """,
        {"campaign": campaign, "environment": environment, "first": first, "tasks": [task.id for task in new]},
    )


def load(database: Database, campaign: str, environment: str, first: int, count: int) -> list[Task]:
    """Return the tasks at the places from `first` on, `count` at most: fewer where fewer are noted."""
    rows = database.execute(
        f"""
        WITH taken AS (
            SELECT task AS id, place FROM heldout_tasks
            WHERE campaign = $campaign AND environment = $environment AND place BETWEEN $first AND $first + $count - 1
        )
        SELECT {tasks.COLUMNS} FROM taken JOIN tasks USING (id) ORDER BY place
        """,
        {"campaign": campaign, "environment": environment, "first": first, "count": count},
    )
    return [tasks.of_row(row) for row in rows]


def ids(database: Database, campaign: str, environment: str) -> list[str]:
    """Return the ids of all that are noted, in order."""
    rows = database.execute(
        "SELECT task FROM heldout_tasks WHERE campaign = ? AND environment = ? ORDER BY place", [campaign, environment]
    )
    return [task for (task,) in rows]


def count(database: Database, campaign: str, environment: str) -> int:
    """Return how many are noted."""
    [(number,)] = database.execute(
        "SELECT count(*) FROM heldout_tasks WHERE campaign = ? AND environment = ?", [campaign, environment]
    )
    return number
