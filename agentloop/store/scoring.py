"""Scores: named, versioned numbers about trajectories, from SQL (scoring/*.sql) and from the environments' verifiers.

Old scores stay when a scorer gets a new version; readers take the newest. What depends on other samples of the same
task (mean, variance, advantage) changes with them and is therefore a view, not a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa

from agentloop.errors import StoreError
from agentloop.records import Task
from agentloop.store.database import Database

SCORERS = Path(__file__).parent / "scoring"

Verify = Callable[[Task, str], float]
"""(task, answer as parsed) -> 1.0 for right, 0.0 for wrong, between for partly right. Pure."""


def score(
    database: Database,
    verifiers: Mapping[str, Verify] | Callable[[str], Verify],
    *,
    version: int = 1,
    campaign: str | None = None,
) -> dict[str, int]:
    """Score what has no score yet: `success` by the environment's verifier, the others by scoring/*.sql.

    `verifiers` maps an environment's name to its verifier (a mapping or a function, for example `lambda name:
    environments.get(name).verify`). A trajectory without an answer has success 0. `version` is that of the verifiers:
    a new one scores the stored trajectories again, without any inference. `campaign` limits it to what that campaign
    collected. Returns the number of new scores by scorer. Raises StoreError for an environment without a verifier.
    """
    find = verifiers if callable(verifiers) else verifiers.get
    with database.transaction():
        counts = {"success": _verify(database, find, version, campaign)}
        for file in sorted(SCORERS.glob("*.sql")):
            counts[file.stem] = _insert(database, file.stem, _version(file), file.read_text(), campaign)
    return counts


def _verify(database: Database, find: Callable[[str], Verify | None], version: int, campaign: str | None) -> int:
    """Each distinct answer to a task is verified once."""
    answers = database.arrow(
        f"""
        SELECT task, answer FROM trajectories t
        WHERE answer IS NOT NULL AND {_unscored("t.id", campaign)}
        GROUP BY task, answer ORDER BY task, answer
        """,
        _where("success", version, campaign),
    )
    tasks = _tasks(database, answers)
    verify = {name: find(name) for name in {task.environment for task in tasks.values()}}
    for name, found in verify.items():
        if found is None:
            raise StoreError(f"environment {name!r}: has no verifier, so its trajectories cannot be scored")
    values = []
    for batch in answers.to_batches(max_chunksize=10_000):
        for task, answer in zip(batch["task"].to_pylist(), batch["answer"].to_pylist(), strict=True):
            value = float(verify[tasks[task].environment](tasks[task], answer))
            if not 0 <= value <= 1:
                raise ValueError(
                    f"environment {tasks[task].environment!r}: its verifier says {value} of {answer!r} to {task}"
                )
            values.append(value)
    database.connection.register("verified", answers.append_column("value", pa.array(values, pa.float64())))
    count = _insert(
        database,
        "success",
        version,
        "SELECT t.id AS trajectory, coalesce(v.value, 0) AS value FROM trajectories t "
        "LEFT JOIN verified v ON v.task = t.task AND v.answer = t.answer",
        campaign,
    )
    database.connection.unregister("verified")
    return count


def _tasks(database: Database, answers: pa.Table) -> dict[str, Task]:
    database.connection.register("answered", answers.select(["task"]))
    rows = database.execute(
        "SELECT id, environment, family, question, answer, split, payload FROM tasks "
        "WHERE id IN (SELECT task FROM answered)"
    )
    database.connection.unregister("answered")
    return {task: Task(*texts, json.loads(payload)) for task, *texts, payload in rows}


def _insert(database: Database, scorer: str, version: int, query: str, campaign: str | None) -> int:
    """Scores by a query that returns (trajectory, value), of the trajectories that have none of this version."""
    ((count,),) = database.execute(
        f"INSERT INTO scores SELECT q.trajectory, $scorer, $version, q.value FROM ({query}) q "
        f"WHERE {_unscored('q.trajectory', campaign)}",
        _where(scorer, version, campaign),
    )
    return count


def _unscored(column: str, campaign: str | None) -> str:
    condition = f"{column} NOT IN (SELECT trajectory FROM scores WHERE scorer = $scorer AND version = $version)"
    if campaign is not None:
        condition += f" AND {column} IN (SELECT trajectory FROM collected WHERE campaign = $campaign)"
    return condition


def _where(scorer: str, version: int, campaign: str | None) -> dict[str, object]:
    return {"scorer": scorer, "version": version} | ({} if campaign is None else {"campaign": campaign})


def _version(file: Path) -> int:
    return int(re.match(r"-- version: (\d+)\n", file.read_text()).group(1))
