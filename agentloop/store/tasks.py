"""Tasks by id. A task that was ever held out stays held out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from agentloop.errors import StoreError
from agentloop.naming import canonical_json
from agentloop.records import Task
from agentloop.store.database import Database

COLUMNS = "environment, family, question, answer, split, payload"
"""What makes a task, in SQL."""


def save(database: Database, tasks: Iterable[Task]) -> int:
    """Make tasks known before any episode of them, held-out ones above all: selection must not touch them.

    Returns how many were not known before.
    """
    columns = ("id", "environment", "family", "question", "answer", "split", "payload")
    values = {
        task.id: (
            task.id,
            task.environment,
            task.family,
            task.question,
            task.answer,
            task.split,
            canonical_json(task.payload),
        )
        for task in tasks
    }
    table = pa.table(
        [pa.array(column, pa.string()) for column in zip(*values.values(), strict=True)]
        or [pa.array([], pa.string())] * len(columns),
        names=columns,
    )
    database.connection.register("given", table)
    ((new,),) = database.execute("SELECT count(*) FROM given WHERE id NOT IN (SELECT id FROM tasks)")
    database.execute(
        "INSERT INTO tasks SELECT * FROM given "
        "ON CONFLICT DO UPDATE SET split = 'heldout' WHERE excluded.split = 'heldout'"
    )
    database.connection.unregister("given")
    return new


def load(database: Database, task_id: str) -> Task:
    """Raises StoreError for an unknown id."""
    rows = database.execute(f"SELECT {COLUMNS} FROM tasks WHERE id = ?", [task_id])
    if not rows:
        raise StoreError(f"{database.path}: no task {task_id}")
    return of_row(rows[0])


def of_row(row: tuple[Any, ...]) -> Task:
    """The task of a row of COLUMNS."""
    environment, family, question, answer, split, payload = row
    return Task(environment, family, question, answer, split, json.loads(payload))


def asked(database: Database, environment: str, questions: Iterable[str]) -> list[Task]:
    """The environment's tasks with one of these questions."""
    rows = database.execute(
        "SELECT id FROM tasks WHERE environment = $environment AND question IN (SELECT unnest($questions::VARCHAR[]))",
        {"environment": environment, "questions": list(questions)},
    )
    return [load(database, task) for (task,) in rows]
