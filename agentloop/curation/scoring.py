"""Scores: named, versioned numbers about trajectories, from SQL (scoring/*.sql) and from verifiers in Python.

Old scores stay when a scorer gets a new version; readers take the newest. What depends on other samples of the same
task (mean, variance, advantage, novelty) changes with them and is therefore a view, not a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from agentloop.curation import verifiers as registered
from agentloop.curation.verifiers import Verifier
from agentloop.errors import StoreError
from agentloop.reading import read_text
from agentloop.records import Task
from agentloop.store.database import Database
from agentloop.verification import SUCCESS, Scoring, Verify, scored

SCORERS = Path(__file__).parent / "scoring"

By = Scoring | Verify
"""An environment, or a function that verifies answers."""
_AT_ONCE = 1000
"""Episodes that wait for threads at the same time."""
_Episode = tuple[Task, str | None, Any]
"""(task, answer, outcome as JSON)"""
Verifiers = Mapping[str, By] | Callable[[str], By]
"""From an environment's name to what scores its episodes, for example `environments.get`."""


@dataclass(frozen=True)
class Rescored:
    """The changes that one version of a scorer brought."""

    scorer: str
    version: int
    scored: int
    """Trajectories that had no score of this version."""
    changed: int
    """Of these, those whose newest earlier version says otherwise."""
    before: float | None
    """Mean of the newest earlier scores of these; None where there are none."""
    after: float | None
    """Mean of the new scores; None where nothing was scored."""


def score(
    database: Database, verifiers: Verifiers, *, version: int | None = None, campaign: str | None = None
) -> dict[str, int]:
    """Score what has no score yet: `success`, and what else its environment scores, by the environment, the others by
    scoring/*.sql.

    `version` is that of the environments' scores, by default the newest that is stored. `campaign` limits it to what that
    campaign collected. Returns the number of new scores by scorer. Raises StoreError for an environment without a verifier.
    """
    with database.transaction():
        version = version or _newest(database, SUCCESS) or 1
        counts = _by_environments(database, version, _finder(verifiers), campaign)
        for file in sorted(SCORERS.glob("*.sql")):
            counts[file.stem] = _insert(database, file.stem, _version(file), _sql(file), campaign)
    return counts


def rescore(
    database: Database, verifiers: Verifiers, scorers: Sequence[str] = (), *, campaign: str | None = None
) -> list[Rescored]:
    """Apply scorers to all stored trajectories, without any inference. All of it or nothing.

    A scorer is `success` (all that the environments score, as they are now: each call is a new version), a file of scoring/
    or a registered verifier by name (scores what has no score of its version), or the path of a .sql or .py file; by
    default `success` and all of scoring/. `campaign` limits it to what that campaign collected. Raises StoreError naming
    the scorer where there is none or it cannot be used.
    """
    built_in = {file.stem: file for file in sorted(SCORERS.glob("*.sql"))}
    with database.transaction():
        done = []
        for name in scorers or (SUCCESS, *built_in):
            if name == SUCCESS:
                version = (_newest(database, name) or 0) + 1
                counts = _by_environments(database, version, _finder(verifiers), campaign)
                done += [_compared(database, each, version, count) for each, count in counts.items()]
            elif name in built_in or name.endswith(".sql"):
                done.append(_by_query(database, built_in.get(name, Path(name)), campaign))
            else:
                done += [_by_verifier(database, verifier, campaign) for verifier in _named(name)]
    return done


def _named(name: str) -> list[Verifier]:
    if name.endswith(".py"):
        return registered.from_file(Path(name))
    verifier = registered.get(name)
    if verifier is None:
        known = ", ".join(["success", *sorted(file.stem for file in SCORERS.glob("*.sql")), *registered.names()])
        raise StoreError(f"scorer {name}: there is none (there are: {known}, and .sql and .py files)")
    return [verifier]


def _by_verifier(database: Database, verifier: Verifier, campaign: str | None) -> Rescored:
    if _built_in(verifier.name):
        raise StoreError(f"verifier {verifier.name}: the name is taken by a built-in scorer")
    finished = _finished(database, verifier.name, verifier.version, campaign)
    episodes = _episodes(finished, _tasks(database, finished))
    values = [0.0 if answer is None else verifier(task, answer) for task, answer, _ in episodes]
    count = _insert_verified(database, finished, verifier.name, verifier.version, values, campaign)
    return _compared(database, verifier.name, verifier.version, count)


def _built_in(name: str) -> bool:
    return name == SUCCESS or (SCORERS / f"{name}.sql").is_file()


def _by_query(database: Database, file: Path, campaign: str | None) -> Rescored:
    if not file.is_file():
        raise StoreError(f"scorer {file}: no such file")
    name, version = file.stem, _version(file)
    if file.parent != SCORERS and _built_in(name):
        raise StoreError(f"scorer {file}: the name {name} is taken by a built-in scorer")
    if registered.get(name):
        raise StoreError(f"scorer {file}: the name {name} is taken by a verifier in Python")
    try:
        scored = _insert(database, name, version, _sql(file), campaign)
    except duckdb.Error as error:
        raise StoreError(f"scorer {file}: {database.said(error)}") from None
    twice = database.execute(
        "SELECT trajectory FROM scores WHERE scorer = ? AND version = ? GROUP BY trajectory HAVING count(*) > 1 LIMIT 1",
        [name, version],
    )
    if twice:
        raise StoreError(f"scorer {file}: gives {twice[0][0]} more than one value")
    return _compared(database, name, version, scored)


def _compared(database: Database, scorer: str, version: int, scored: int) -> Rescored:
    """With `scored` 0 nothing was changed by this call."""
    changed, before, after = database.execute(
        """
        WITH earlier AS (
            SELECT trajectory, arg_max(value, version) AS value
            FROM scores WHERE scorer = $scorer AND version < $version GROUP BY trajectory
        )
        SELECT count(*) FILTER (e.value <> s.value), avg(e.value), avg(s.value)
        FROM scores s LEFT JOIN earlier e ON e.trajectory = s.trajectory
        WHERE s.scorer = $scorer AND s.version = $version AND $scored > 0
        """,
        {"scorer": scorer, "version": version, "scored": scored},
    )[0]
    return Rescored(scorer, version, scored, changed, before, after)


def _finder(verifiers: Verifiers) -> Callable[[str], By | None]:
    return verifiers if callable(verifiers) else verifiers.get


def _newest(database: Database, scorer: str) -> int | None:
    return database.execute("SELECT max(version) FROM scores WHERE scorer = ?", [scorer])[0][0]


def _by_environments(
    database: Database, version: int, find: Callable[[str], By | None], campaign: str | None
) -> dict[str, int]:
    """The scores that environments give, `success` first. Returns the number of new ones by name."""
    finished = _finished(database, SUCCESS, version, campaign)
    tasks = _tasks(database, finished)
    known: dict[str, By] = {}
    for name in sorted({task.environment for task in tasks.values()}):
        found = find(name)
        if found is None:
            raise StoreError(f"environment {name!r}: has no verifier, so its trajectories cannot be scored")
        known[name] = found
    columns: dict[str, list[float | None]] = {SUCCESS: []}
    for place, (environment, scores) in enumerate(_scores(_episodes(finished, tasks), known)):
        for scorer, value in scores.items():
            if scorer not in columns:
                _refuse_taken(scorer, environment)
                columns[scorer] = [None] * place
            columns[scorer].append(value)
        for column in columns.values():
            column += [None] * (place + 1 - len(column))
    # success last: what has none of this version is what is still to be scored
    counts = {
        scorer: _insert_verified(database, finished, scorer, version, values, campaign, unscored=SUCCESS)
        for scorer, values in reversed(columns.items())
    }
    return dict(reversed(counts.items()))


def _scores(episodes: Iterator[_Episode], by: Mapping[str, By]) -> Iterator[tuple[str, dict[str, float]]]:
    """(environment, scores) of each episode, in order. Several are scored at once where all environments say so."""

    def one(episode: _Episode) -> tuple[str, dict[str, float]]:
        task, answer, outcome = episode
        who = f"environment {task.environment!r}: its verifier"
        return task.environment, scored(by[task.environment], task, answer, outcome, who=who)

    threads = min((getattr(each, "scored_at_once", 1) for each in by.values()), default=1)
    if threads == 1:
        yield from map(one, episodes)
        return
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(episodes, _AT_ONCE)):
            yield from pool.map(one, some)


def _refuse_taken(scorer: str, environment: str) -> None:
    if _built_in(scorer) or registered.get(scorer):
        raise StoreError(f"environment {environment!r}: gives a score named {scorer}, a name that another scorer has")


def _finished(database: Database, scorer: str, version: int, campaign: str | None) -> pa.Table:
    """Each (task, answer, outcome) that some trajectory without such a score ended with, once."""
    return database.arrow(
        f"""
        SELECT task, answer, outcome FROM trajectories t
        WHERE {_unscored("t.id", campaign)}
        GROUP BY task, answer, outcome ORDER BY task, answer, outcome
        """,
        _where(scorer, version, campaign),
    )


def _episodes(finished: pa.Table, tasks: Mapping[str, Task]) -> Iterator[_Episode]:
    for batch in finished.to_batches(max_chunksize=10_000):
        for task, answer, outcome in zip(*(batch[name].to_pylist() for name in finished.column_names), strict=True):
            yield tasks[task], answer, None if outcome is None else json.loads(outcome)


def _insert_verified(
    database: Database,
    finished: pa.Table,
    scorer: str,
    version: int,
    values: Sequence[float | None],
    campaign: str | None,
    *,
    unscored: str | None = None,
) -> int:
    """The values of `finished`, in its order, as scores of the trajectories that ended so. Those are scored that have no score
    by `unscored`, by default `scorer`, of this version. Returns the number of new scores."""
    database.connection.register("verified", finished.append_column("value", pa.array(values, pa.float64())))
    count = _insert(
        database,
        scorer,
        version,
        "SELECT t.id AS trajectory, v.value FROM trajectories t JOIN verified v ON v.task = t.task "
        "AND v.answer IS NOT DISTINCT FROM t.answer AND v.outcome IS NOT DISTINCT FROM t.outcome "
        "WHERE v.value IS NOT NULL",
        campaign,
        unscored=unscored,
    )
    database.connection.unregister("verified")
    return count


def _tasks(database: Database, finished: pa.Table) -> dict[str, Task]:
    database.connection.register("finished", finished.select(["task"]))
    rows = database.execute(
        "SELECT id, environment, family, question, answer, split, payload FROM tasks "
        "WHERE id IN (SELECT task FROM finished)"
    )
    database.connection.unregister("finished")
    return {
        task: Task(environment, family, question, answer, split, json.loads(payload))
        for task, environment, family, question, answer, split, payload in rows
    }


def _insert(
    database: Database, scorer: str, version: int, query: str, campaign: str | None, *, unscored: str | None = None
) -> int:
    """Scores by a query that returns (trajectory, value), of the trajectories that have none by `unscored` of this version."""
    ((count,),) = database.execute(
        f"INSERT INTO scores SELECT q.trajectory, $name, $version, q.value FROM ({query}\n) q "
        f"WHERE {_unscored('q.trajectory', campaign)}",
        _where(unscored or scorer, version, campaign) | {"name": scorer},
    )
    return count


def _unscored(column: str, campaign: str | None) -> str:
    condition = f"{column} NOT IN (SELECT trajectory FROM scores WHERE scorer = $scorer AND version = $version)"
    if campaign is not None:
        condition += f" AND {column} IN (SELECT trajectory FROM collected WHERE campaign = $campaign)"
    return condition


def _where(scorer: str, version: int, campaign: str | None) -> dict[str, object]:
    return {"scorer": scorer, "version": version} | ({} if campaign is None else {"campaign": campaign})


def _sql(file: Path) -> str:
    try:
        return read_text(file, StoreError)
    except StoreError as error:
        raise StoreError(f"scorer {error}") from None


def _version(file: Path) -> int:
    found = re.match(r"-- version: (\d+)\n", _sql(file))
    if not found:
        raise StoreError(f"scorer {file}: its first line is not a comment '-- version: N'")
    return int(found[1])
