"""Kinds of values that several settings have, each with what it refuses."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agentloop import project

RECIPES = ("rejection", "replay", "fresh", "random", "groups", "pairs")
"""Built-in selections for training."""

RANKS = (8, 16, 32, 64, 128, 256)
"""Of adapters: vLLM accepts only these as --max-lora-rank."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(ge=0)]


def servable_rank(rank: int) -> int:
    """Return the rank. Raises ValueError where vLLM does not serve adapters of it."""
    if rank not in RANKS:
        raise ValueError("must be 8, 16, 32, 64, 128 or 256")
    return rank


def eight_or_32(bits: object) -> int:
    """Return 32 or 8. Raises ValueError for anything else."""
    # the environment gives text, which a Literal does not turn into a number
    if str(bits) not in ("8", "32"):
        raise ValueError("must be 32 or 8")
    return int(str(bits))


def auto_or_positive(budget: Any) -> object:
    """Return "auto" or a number above 0. Raises ValueError for anything else."""
    # before the union is tried: its own errors are two, and name its members instead of the setting
    try:
        if budget == "auto" or 0 < float(budget) < math.inf:
            return budget
    except (TypeError, ValueError):
        pass
    raise ValueError("must be auto or a number above 0")


def home_expanded(path: str) -> str:
    """Return `path` with a leading `~` or `~name` expanded as a shell does it; everything else, `$NAME` too, stays as it is.

    Raises ValueError where there is no such user.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        name = expanded[1:].partition("/")[0]
        raise ValueError(f"there is no user named {name}" if name else "~: this user has no home folder")
    return expanded


def user_path(path: object) -> object:
    """Return a path with a leading `~` expanded; what is neither text nor a path, as it is. Raises ValueError."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str):
        return path
    if not path:
        raise ValueError("must not be empty")
    return name_or_path(path)


def name_or_path(text: str) -> str:
    """Return the text with a leading `~` expanded. Raises ValueError for control characters."""
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("must not contain control characters")
    return home_expanded(text)


def known_recipe(recipe: str) -> str:
    """Return the name of a built-in recipe, or the path of a .sql file that is there. Raises ValueError."""
    if recipe in RECIPES:
        return recipe
    recipe = name_or_path(recipe)
    try:
        there = recipe.endswith(".sql") and (project.root() / recipe).is_file()
    except (OSError, ValueError):  # too long a name, a null byte
        there = False
    if not there:
        raise ValueError(f"must be {', '.join(RECIPES)} or the path of a .sql file")
    return recipe


UserPath = Annotated[Path, BeforeValidator(user_path)]
"""A path as a person writes it: `~` is the home folder."""

Count = Annotated[int, Field(ge=1, lt=2**31)]
Tasks = Annotated[int, Field(ge=1, le=1_000_000)]
"""A number of tasks. They are made, and held in memory, before the first of them is tried."""
