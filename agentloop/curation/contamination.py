"""Contamination: what must not be trained on because it is measured on. A hit is an error, not a filter.

Three checks of the rows that a selection chose: the task itself is held out; its question is nearly that of a
held-out task; its question is nearly one of a user's benchmark prompts. Nearly means that most runs of 13 words are
the same, the measure of Brown et al. 2020 (arXiv 2005.14165, appendix C), here as a share because questions of one
template share runs; those that most held-out questions of a family have are not counted. Where words have no spaces
between them, characters are counted instead (wording.sql).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from agentloop import project
from agentloop.errors import ContaminationError, StoreError
from agentloop.reading import read_text
from agentloop.store import wording
from agentloop.store.database import Database
from agentloop.text import lines_of

QUERIES = Path(__file__).parent / "contamination"

SHARE = 0.8
NAMED = 10
"""Rows that a message names; it tells the number of the others."""


def refuse(database: Database, benchmarks: Path | None = None) -> None:
    """Check the rows in the temporary tables `chosen` and `pool` of a selection.

    `benchmarks`: a text file with one prompt a line; a relative path is relative to the project's root. Raises
    ContaminationError naming the rows, StoreError where the file cannot be read.
    """
    rows = database.execute(_query("heldout"))
    if rows:
        raise ContaminationError(_message("of held-out tasks", [f"{trajectory} ({task})" for trajectory, task in rows]))
    rows = _overlaps(database, _prompts(benchmarks) if benchmarks else {})
    if rows:
        raise ContaminationError(
            _message(
                "nearly the same as what is measured",
                [f"{trajectory} ({task} is nearly {name})" for trajectory, task, name in rows],
            )
        )


def near_heldout(database: Database, campaign: str, *, first: int = 0) -> dict[str, str]:
    """Return the training tasks that a campaign has collected and not forgotten, and that nearly are a held-out task:
    {task: which one}. `first`: from this iteration on.
    """
    database.execute(_query("collected"), {"campaign": campaign, "first": first})
    database.execute(
        "CREATE OR REPLACE TEMP TABLE chosen AS "
        "SELECT trajectory, row_number() OVER (ORDER BY trajectory) AS place FROM pool"
    )
    return {task: name for _, task, name in _overlaps(database, {})}


def between(
    asked: Mapping[str, str], protected: Mapping[str, str], families: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the texts of `asked` that nearly are one of `protected`, with its name: {name: name}. Both are texts by name.

    `families`: those of protected texts, by name, within which a template is looked for.
    """
    with Database.in_memory() as database:
        for table, texts in (("asked", asked), ("protected", protected)):
            rows = pa.table(
                {
                    "name": pa.array(list(texts), pa.string()),
                    "text": pa.array(list(texts.values()), pa.string()),
                    "family": pa.array([families.get(name) for name in texts], pa.string()),
                }
            )
            database.connection.register("given", rows)
            database.execute(f"CREATE TEMP TABLE {table} AS FROM given")
            database.connection.unregister("given")
        database.execute("CREATE TEMP TABLE pool AS SELECT name AS trajectory, name AS task FROM asked")
        database.execute("CREATE TEMP TABLE chosen AS SELECT name AS trajectory, rowid AS place FROM asked")
        wording.prepare(database, "SELECT text FROM asked UNION ALL SELECT text FROM protected")
        return {
            task: name
            for _, task, name in database.execute(_query("overlaps"), {"share": SHARE, "template": wording.TEMPLATE})
        }


def _overlaps(database: Database, prompts: dict[str, str]) -> list[tuple[str, str, str]]:
    database.execute(_query("protected"), {"names": list(prompts), "prompts": list(prompts.values())})
    database.execute(_query("asked"))
    wording.prepare(database, "SELECT text FROM asked UNION ALL SELECT text FROM protected")
    return database.execute(_query("overlaps"), {"share": SHARE, "template": wording.TEMPLATE})


def _prompts(file: Path) -> dict[str, str]:
    try:
        lines = lines_of(read_text(project.root() / file, StoreError))
    except StoreError as error:
        raise StoreError(f"selection.benchmarks: {error}") from None
    return {f"line {number} of {file.name}": line for number, line in enumerate(lines, 1) if line.strip()}


def _message(what: str, rows: list[str]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f"{len(rows)} chosen trajectories are {what}: {', '.join(rows[:NAMED])}{more}"


def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
