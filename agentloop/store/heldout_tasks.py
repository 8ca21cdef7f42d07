"""The held-out tasks that a campaign has taken, by environment and in order."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agentloop.records import Task
from agentloop.store.database import Database


def append(database: Database, campaign: str, environment: str, first: int, tasks: Sequence[Task]) -> None:
    """Note known tasks at the places from `first` on, counted from 0. A place that is taken stays as it is."""
    database.execute(
        """
        INSERT INTO heldout_tasks
        SELECT $campaign, $environment, $first - 1 + unnest(range(1, len($tasks::VARCHAR[]) + 1)), unnest($tasks::VARCHAR[])
        ON CONFLICT DO NOTHING
        """,
        {"campaign": campaign, "environment": environment, "first": first, "tasks": [task.id for task in tasks]},
    )


def load(database: Database, campaign: str, environment: str, first: int, count: int) -> list[Task]:
    """Return the tasks at the places from `first` on, `count` at most: fewer where fewer are noted."""
    rows = database.execute(
        """
        SELECT k.environment, k.family, k.question, k.answer, k.payload
        FROM heldout_tasks h JOIN tasks k ON k.id = h.task
        WHERE h.campaign = $campaign AND h.environment = $environment AND h.place BETWEEN $first AND $first + $count - 1
        ORDER BY h.place
        """,
        {"campaign": campaign, "environment": environment, "first": first, "count": count},
    )
    return [
        Task(name, family, question, answer, "heldout", json.loads(payload))
        for name, family, question, answer, payload in rows
    ]


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
