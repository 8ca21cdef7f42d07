"""Selection: which trajectories are trained on, by a recipe in SQL (selection/*.sql) with typed parameters.

A recipe is one query over the table `pool` (selection/pool.sql) that returns every row of it as (trajectory, failed,
place): the first rule that the row failed, NULL where it is chosen, and its place in the dataset. Its comment
`-- rules: …` names the rules in their order. Parameters are written `$per_task`; they are the fields of
settings.Selection, `$iteration`, `$seed` and `$size`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from agentloop import settings
from agentloop.errors import StoreError
from agentloop.records import Dataset
from agentloop.store import contamination, datasets
from agentloop.store.database import Database

RECIPES = Path(__file__).parent / "selection"
POOL = RECIPES / "pool.sql"

Funnel = tuple[tuple[str, int], ...]
"""(rule, trajectories left after it); the first is ("collected", all of the pool)."""


@dataclass(frozen=True)
class Selected:
    dataset: Dataset
    funnel: Funnel


def select(
    database: Database,
    recipe: str | Path,
    campaign: str,
    iteration: int,
    parameters: settings.Selection,
    *,
    seed: int = 0,
    size: int | None = None,
    save: bool = True,
) -> Selected:
    """Choose rows by `recipe`, a name in selection/ or the path of a .sql file, among what the campaign collected.

    The pool is that of the iterations up to `iteration`, or of that one alone without `parameters.accumulate`. `size`
    limits the number of rows (`random` needs it: the matched control has as many rows as the dataset it controls
    for). With `save` the dataset and its rows are stored; without, it is a dry run. The order is deterministic.
    Raises ContaminationError naming the rows where a held-out task is among the chosen ones or nearly so
    (store/contamination.py), StoreError where a recipe cannot be used, a trajectory has no success score, or nothing
    is left.
    """
    name, sql = _recipe(recipe)
    rules = _rules(name, sql)
    values = _values(name, sql, parameters.model_dump() | {"iteration": iteration, "seed": seed, "size": size})
    with database.transaction():
        _fill_pool(database, campaign, 0 if parameters.accumulate else iteration, iteration)
        chosen, funnel = _choose(database, name, sql, rules, values)
        contamination.refuse(database, parameters.benchmarks)
        used = values | {"accumulate": parameters.accumulate, "sql": hashlib.sha256(sql.encode()).hexdigest()[:16]}
        selected = Selected(Dataset(chosen, name, used), funnel)
        if save:
            datasets.save(database, selected.dataset, campaign=campaign, iteration=iteration, funnel=funnel)
    return selected


def _choose(
    database: Database, name: str, sql: str, rules: list[str], values: Mapping[str, object]
) -> tuple[tuple[str, ...], Funnel]:
    """Run the recipe; the chosen rows are in the table `chosen` too."""
    try:
        database.execute(f"CREATE OR REPLACE TEMP TABLE choice AS {sql}", values)
    except duckdb.Error as error:
        raise StoreError(f"recipe {name}: {str(error).splitlines()[0]}") from None
    database.execute("CREATE OR REPLACE TEMP TABLE chosen AS SELECT trajectory, place FROM choice WHERE failed IS NULL")
    funnel = _funnel(database, name, rules)
    chosen = tuple(row for (row,) in database.execute("SELECT trajectory FROM chosen ORDER BY place"))
    if not chosen:
        emptied = next(rule for rule, left in funnel if not left)
        raise StoreError(f"recipe {name}: nothing is left of {funnel[0][1]} trajectories after the rule {emptied!r}")
    return chosen, funnel


def _recipe(recipe: str | Path) -> tuple[str, str]:
    built_in = sorted(file.stem for file in RECIPES.glob("*.sql") if file != POOL)
    if recipe in built_in:
        return str(recipe), (RECIPES / f"{recipe}.sql").read_text()
    path = Path(recipe)
    if path.suffix != ".sql" or not path.is_file():
        raise StoreError(f"recipe {recipe}: neither built in ({', '.join(built_in)}) nor a .sql file")
    return path.stem, path.read_text()


def _rules(name: str, sql: str) -> list[str]:
    line = re.search(r"^-- rules: (.+)$", sql, re.MULTILINE)
    if not line:
        raise StoreError(f"recipe {name}: has no comment '-- rules: …' that names its rules in their order")
    return [rule.strip() for rule in line[1].split(",")]


def _values(name: str, sql: str, offered: Mapping[str, object]) -> dict[str, object]:
    """Those parameters that the recipe mentions: the others must not be part of the dataset's name."""
    try:
        (statement,) = duckdb.extract_statements(sql)
    except (duckdb.Error, ValueError):
        raise StoreError(f"recipe {name}: is not one SQL query") from None
    for parameter in sorted(statement.named_parameters):
        if offered.get(parameter) is None:
            known = ", ".join(f"${each}" for each, value in offered.items() if value is not None)
            raise StoreError(f"recipe {name}: needs ${parameter}, which is not given (given are {known})")
    return {parameter: offered[parameter] for parameter in sorted(statement.named_parameters)}


def _fill_pool(database: Database, campaign: str, first: int, last: int) -> None:
    database.execute(POOL.read_text(), {"campaign": campaign, "first": first, "last": last})
    unscored = database.execute("SELECT trajectory FROM pool WHERE success IS NULL ORDER BY trajectory LIMIT 1")
    if unscored:
        raise StoreError(f"{database.path}: {unscored[0][0]} has no success score yet, score before selecting")


def _funnel(database: Database, name: str, rules: list[str]) -> Funnel:
    removed = dict(database.execute("SELECT failed, count(*) FROM choice WHERE failed IS NOT NULL GROUP BY failed"))
    unknown = removed.keys() - set(rules)
    if unknown:
        raise StoreError(f"recipe {name}: removes rows by {sorted(unknown)[0]!r}, which its '-- rules:' does not name")
    (left,) = database.execute("SELECT count(*) FROM pool")[0]
    funnel = [("collected", left)]
    for rule in rules:
        left -= removed.get(rule, 0)
        funnel.append((rule, left))
    return tuple(funnel)
