"""Selection: which trajectories are trained on, by a recipe in SQL (selection/*.sql) with typed parameters.

A recipe is one query over the table `pool` (selection/pool.sql) that returns every row of it as (trajectory, failed,
place): the first rule that the row failed, NULL where it is chosen, and its place in the dataset. Parameters are
written `$per_task`; they are the fields of settings.Selection, `$iteration`, `$seed` and `$size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from agentloop import settings
from agentloop.curation import contamination, duplicates, recipes
from agentloop.curation.recipes import NEAR_DUPLICATES, Recipe
from agentloop.errors import EmptySelectionError, StoreError
from agentloop.records import Dataset
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.store.shards import Purpose
from agentloop.verification import SUCCESS

Funnel = tuple[tuple[str, int], ...]
"""(rule, trajectories left after it); the first is ("collected" or "demonstrated", all of the pool)."""

_SOLVED = "solved"
"""The rule of the built-in recipes that leaves out what is not solved."""


@dataclass(frozen=True)
class Selected:
    dataset: Dataset
    funnel: Funnel
    near_duplicates: tuple[tuple[str, str], ...] = ()
    """(row that was left out, row of the dataset's earlier places that it is nearly the same as)"""


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
    (curation/contamination.py), StoreError where a recipe cannot be used, a trajectory has no success score, and as
    EmptySelectionError where nothing is left.
    """
    loaded = recipes.load(recipe)
    values = loaded.parameters(parameters.model_dump() | {"iteration": iteration, "seed": seed, "size": size})
    used = values | {"accumulate": parameters.accumulate, "sql": loaded.digest}
    used |= {"pairs": True} if loaded.paired else {}
    # no part of the name at first, so that it is none while it is the default
    used |= {"reward": parameters.reward} if parameters.reward != SUCCESS else {}
    with database.transaction():
        first = 0 if parameters.accumulate else iteration
        _fill_pool(database, campaign, loaded.purpose, parameters.reward, first, iteration)
        _run(database, loaded, values)
        repeated: list[tuple[str, str]] = []
        if loaded.removes_near_duplicates:
            repeated = duplicates.find(database, parameters.max_overlap)
            _leave_out(database, [row for row, _ in repeated])
            used |= {"max_overlap": parameters.max_overlap}
        funnel = _funnel(database, loaded)
        contamination.refuse(database, parameters.benchmarks)
        chosen = tuple(row for (row,) in database.execute("SELECT trajectory FROM chosen ORDER BY place"))
        rewards = _rewards(database) if loaded.rows == "groups" else ()
        selected = Selected(Dataset(chosen, loaded.name, used, rewards), funnel, tuple(repeated))
        if save:
            datasets.save(database, selected.dataset, campaign=campaign, iteration=iteration, funnel=funnel)
    return selected


def _fill_pool(database: Database, campaign: str, purpose: Purpose, reward: str, first: int, last: int) -> None:
    where = {"campaign": campaign, "purpose": purpose, "reward": reward, "first": first, "last": last}
    database.execute(recipes.POOL.read_text(encoding="utf-8"), where)
    unscored = database.execute("SELECT trajectory FROM pool WHERE success IS NULL ORDER BY trajectory LIMIT 1")
    if unscored and reward == SUCCESS:
        raise StoreError(f"{database.path}: {unscored[0][0]} has no success score yet, score before selecting")
    if unscored:
        raise StoreError(
            f"selection.reward: {unscored[0][0]} has no score named {reward}; `agentloop rescore` makes them anew"
        )


def _run(database: Database, recipe: Recipe, values: Mapping[str, object]) -> None:
    """The recipe's answer goes into the table `choice`, what it chose into `chosen`."""
    try:
        database.execute(f"CREATE OR REPLACE TEMP TABLE choice AS {recipe.sql}", values)
    except duckdb.Error as error:
        raise StoreError(f"recipe {recipe.place}: {database.said(error)}") from None
    database.execute("CREATE OR REPLACE TEMP TABLE chosen AS SELECT trajectory, place FROM choice WHERE failed IS NULL")


def _rewards(database: Database) -> tuple[float, ...]:
    """Scores of the chosen rows, in their order."""
    return tuple(
        reward
        for (reward,) in database.execute("SELECT success FROM chosen JOIN pool USING (trajectory) ORDER BY place")
    )


def _leave_out(database: Database, repeated: list[str]) -> None:
    database.connection.register("repeated", pa.table({"trajectory": pa.array(repeated, pa.string())}))
    database.execute(
        "UPDATE choice SET failed = ? WHERE trajectory IN (SELECT trajectory FROM repeated)", [NEAR_DUPLICATES]
    )
    database.execute("DELETE FROM chosen WHERE trajectory IN (SELECT trajectory FROM repeated)")
    database.connection.unregister("repeated")


def _funnel(database: Database, recipe: Recipe) -> Funnel:
    """Raises StoreError where a row failed an unknown rule, EmptySelectionError where nothing is left."""
    removed = dict(database.execute("SELECT failed, count(*) FROM choice WHERE failed IS NOT NULL GROUP BY failed"))
    unknown = removed.keys() - set(recipe.rules)
    if unknown:
        raise StoreError(
            f"recipe {recipe.place}: removes rows by {sorted(unknown)[0]!r}, which its '-- rules:' does not name"
        )
    (left,) = database.execute("SELECT count(*) FROM pool")[0]
    funnel = [("demonstrated" if recipe.purpose == "demonstrate" else "collected", left)]
    for rule in recipe.rules:
        left -= removed.get(rule, 0)
        funnel.append((rule, left))
    emptied = next((rule for rule, left in funnel if not left), None)
    if emptied is not None:
        raise EmptySelectionError(
            f"recipe {recipe.place}: nothing is left of {funnel[0][1]} trajectories after the rule {emptied!r}"
            f"{_way_out(recipe, emptied)}"
        )
    return tuple(funnel)


def _way_out(recipe: Recipe, rule: str) -> str:
    if rule != _SOLVED or recipe.purpose == "demonstrate":
        return ""
    return "; a base that solves none of its tasks has nothing to learn from: `agentloop teach` shows it how"
