"""Scripts from the store: what other models solved, to be said again in the student's tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from agentloop.records import Task
from agentloop.store import tasks
from agentloop.store.database import Database
from agentloop.teaching.script import Script

QUERIES = Path(__file__).parent


def choose(
    database: Database, environment: str, *, student: str, families: Collection[str], per_task: int, most_tasks: int
) -> list[str]:
    """Solved trajectories of the environment's tasks that are not held out, by policies with another base than `student`.

    At most `per_task` of a task that differ in what was done, the ones with the fewest mistakes first.
    """
    rows = database.execute(
        (QUERIES / "stored.sql").read_text(encoding="utf-8"),
        {
            "environment": environment,
            "student": student,
            "families": sorted(families),
            "per_task": per_task,
            "most_tasks": most_tasks,
        },
    )
    return [trajectory for (trajectory,) in rows]


def scripts(database: Database, trajectories: Sequence[str]) -> list[Script]:
    """Return what the model said in each trajectory, in this order."""
    rows = database.execute(
        """
        SELECT r.name, t.task, list(u.text ORDER BY u.position)
        FROM (SELECT unnest($names) AS name, generate_subscripts($names, 1) AS place) r
        JOIN trajectories t ON t.id = r.name
        JOIN turns u ON u.trajectory = t.id AND u.role = 'model'
        GROUP BY r.name, r.place, t.task ORDER BY r.place
        """,
        {"names": list(trajectories)},
    )
    found: dict[str, Task] = {task: tasks.load(database, task) for task in {task for _, task, _ in rows}}
    return [Script(found[task], tuple(turns)) for _, task, turns in rows]
