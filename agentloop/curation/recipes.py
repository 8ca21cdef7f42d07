"""Recipes of selection: one SQL query each, built in (selection/*.sql) or a user's file.

Comments of the file say what the query cannot: `-- rules: …` names the rules in their order, `-- rows: pairs` says that
the rows alternate between what is to be preferred and what is not, `-- rows: groups` that failures are among them, told from
successes by their scores, and `-- purpose: demonstrate` that it chooses among demonstrations instead of what a campaign
collected.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from agentloop import project
from agentloop.errors import SettingError, StoreError
from agentloop.reading import read_text
from agentloop.settings import Selection, Settings
from agentloop.store.shards import Purpose

RECIPES = Path(__file__).parent / "selection"
POOL = RECIPES / "pool.sql"

Rows = Literal["successes", "groups", "pairs"]
"""What a dataset is made of, and an objective learns from."""

NEAR_DUPLICATES = "no near duplicate"
"""The rule that a recipe may name last and that is not the query's: see duplicates.py."""


@dataclass(frozen=True)
class Recipe:
    name: str
    place: str
    """What messages call it: its name where it is built in, else its file."""
    sql: str
    rules: tuple[str, ...]
    """In their order, as the funnel shows them."""
    rows: Rows
    """`successes`; `pairs`, where rows alternate: preferred, not preferred, …; `groups` of successes and failures."""
    purpose: Purpose = "collect"
    """What the trajectories that it chooses from were run for."""

    @property
    def paired(self) -> bool:
        return self.rows == "pairs"

    @property
    def removes_near_duplicates(self) -> bool:
        return self.rules[-1] == NEAR_DUPLICATES

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()[:16]

    def parameters(self, offered: Mapping[str, object]) -> dict[str, object]:
        """Return those of `offered` that the query mentions: the others must not be part of the dataset's name.

        Raises StoreError where one is missing or the file is not one query.
        """
        try:
            (statement,) = duckdb.extract_statements(self.sql)
        except (duckdb.Error, ValueError):
            raise StoreError(f"recipe {self.place}: is not one SQL query") from None
        mentioned = sorted(statement.named_parameters)
        for parameter in mentioned:
            if offered.get(parameter) is None:
                known = ", ".join(f"${each}" for each, value in offered.items() if value is not None)
                raise StoreError(f"recipe {self.place}: needs ${parameter}, which is not given (given are {known})")
        return {parameter: offered[parameter] for parameter in mentioned}


def load(recipe: str | Path) -> Recipe:
    """A built-in recipe by name, or one from a .sql file (a relative path is relative to the project's root).

    Raises StoreError, naming the recipe, where there is none or it names no rules.
    """
    built_in = sorted(file.stem for file in RECIPES.glob("*.sql") if file != POOL)
    path = RECIPES / f"{recipe}.sql" if recipe in built_in else project.root() / recipe
    if path.suffix != ".sql" or not path.is_file():
        raise StoreError(f"recipe {recipe}: neither built in ({', '.join(built_in)}) nor a .sql file")
    try:
        sql = read_text(path, StoreError)
    except StoreError as error:
        raise StoreError(f"recipe {error}") from None
    place = str(recipe if path.parent == RECIPES else path)
    rules = re.search(r"^-- rules: (.+)$", sql, re.MULTILINE)
    if not rules:
        raise StoreError(f"recipe {place}: has no comment '-- rules: …' that names its rules in their order")
    named = re.search(r"^-- rows: (pairs|groups)$", sql, re.MULTILINE)
    rows: Rows = "successes" if named is None else "pairs" if named[1] == "pairs" else "groups"
    demonstrations = re.search(r"^-- purpose: demonstrate$", sql, re.MULTILINE) is not None
    purpose: Purpose = "demonstrate" if demonstrations else "collect"
    return Recipe(path.stem, place, sql, tuple(rule.strip() for rule in rules[1].split(",")), rows, purpose)


def for_training(settings: Settings) -> str:
    """The recipe of a campaign's iterations: `selection.recipe`, or, where that is left as it is and the objective learns from
    failures too, the built-in one of groups or pairs.

    Raises SettingError where the recipe's rows are not what the objective learns from, StoreError as `load` does.
    """
    recipe, wanted = settings.selection.recipe, settings.training.rows
    if wanted != "successes" and recipe == Selection().recipe:
        return wanted
    if (given := load(recipe).rows) != wanted:
        raise SettingError(
            f"selection.recipe: {recipe} chooses {given}, but training.objective = {settings.training.objective} learns from "
            f"{wanted}"
        )
    return recipe
