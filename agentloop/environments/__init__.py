"""Where tasks come from and what verifies them: the built-in environments, and the user's own from a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path

from agentloop import project
from agentloop.environments import bfcl, openenv, reasoning_gym, textworld, verifiers
from agentloop.environments.arithmetic import Arithmetic
from agentloop.environments.check import check_tools
from agentloop.environments.database import Database
from agentloop.environments.datasets_on_disk import holds_rows
from agentloop.environments.environment import Environment, Question, ScriptedEnvironment, TooFewTasks
from agentloop.environments.model_judge import Judge
from agentloop.environments.question_file import QuestionFile, of_rows
from agentloop.environments.session import Session
from agentloop.environments.unverified import UNVERIFIED, Unverified
from agentloop.errors import SettingError
from agentloop.text import one_line, one_line_of
from agentloop.tools import Observation
from agentloop.trial import try_out
from agentloop.user_code import run_file

__all__ = [
    "Environment",
    "Judge",
    "Observation",
    "Question",
    "QuestionFile",
    "ScriptedEnvironment",
    "Session",
    "TooFewTasks",
    "check_tools",
    "get",
]

_ENVIRONMENTS: dict[str, type[Environment]] = {environment.name: environment for environment in (Arithmetic, Database)}
_FAMILIES: dict[str, Callable[[str], type[Environment]]] = {
    bfcl.PREFIX: bfcl.of_name,
    openenv.PREFIX: openenv.of_name,
    reasoning_gym.PREFIX: reasoning_gym.of_name,
    textworld.PREFIX: textworld.of_name,
    verifiers.PREFIX: verifiers.of_name,
}
"""What makes the environments whose names begin so."""


def get(name: str, *, apart: bool = True) -> Environment:
    """Return the environment of that name, or the one that a file is; from then on its name is known too.

    `name` is `arithmetic`, `database`, `reasoning-gym:GENERATOR`, `textworld:CHALLENGE`, `bfcl:CATEGORY`,
    `verifiers:TASKSET`, `openenv:SERVER`, the path of a .py file that defines one, or that of questions with their answers (a
    .jsonl, .csv, .parquet, … file or a dataset's directory), which have no tools then. A relative path is relative to the
    project's root.
    `apart` tries the file in a process of its own before it is run in this one. Raises SettingError, in one line, where there
    is no such environment or its file fails.
    """
    if name.endswith(".py"):
        return _made(_known(name, _from_file(project.root() / name, apart)))
    for prefix, of_name in _FAMILIES.items():
        if name.startswith(prefix):
            return _made(_ENVIRONMENTS.setdefault(name, _ENVIRONMENTS.get(name) or of_name(name)))
    if name not in _ENVIRONMENTS and holds_rows(project.root() / name):
        return _made(_known(name, _from_rows(project.root() / name)))
    if name == UNVERIFIED:  # no choice for a campaign, so it is not among those that are listed
        return Unverified()
    if name not in _ENVIRONMENTS:
        known_names = ", ".join(sorted(_ENVIRONMENTS))
        raise SettingError(
            f"environment: there is no {name!r}; there are: {known_names}, or the path of a .py file or of questions"
        )
    return _made(_ENVIRONMENTS[name])


def _known(name: str, environment: type[Environment]) -> type[Environment]:
    if _ENVIRONMENTS.setdefault(environment.name, environment) is not environment:
        raise SettingError(f"environment: {name} is named {environment.name!r}, and there is another of that name")
    return environment


def _made(environment: type[Environment]) -> Environment:
    try:
        return environment()
    except (Exception, SystemExit) as error:
        raise SettingError(f"environment: {environment.name}: {one_line(error)} when it is made") from error


@cache
def _from_rows(path: Path) -> type[Environment]:
    if not path.exists():
        raise SettingError(f"environment: there is no file {path}")
    return of_rows(path)


@cache
def _from_file(path: Path, apart: bool) -> type[Environment]:
    if not path.is_file():
        raise SettingError(
            f"environment: {path} is no file" if path.exists() else f"environment: there is no file {path}"
        )
    if apart:
        try_out(path, about="environment:", use="agentloop.environments.trying:use", error=SettingError)
    module = run_file(path, about="environment:", error=SettingError)
    own = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Environment) and each.__module__ == module.__name__
    ]
    own = list(dict.fromkeys(own))  # one class may have two names
    if len(own) != 1:
        names = f" ({', '.join(each.__name__ for each in own)})" if own else ""
        raise SettingError(f"environment: {path} defines {len(own)} environments{names}, it must be one")
    name = getattr(own[0], "name", None)
    if lacks := own[0].lacks():
        raise SettingError(f"environment: {path}: {own[0].__name__} lacks {', '.join(lacks)}")
    if not isinstance(name, str) or not name.isprintable() or name.endswith(".py"):
        raise SettingError(f"environment: {path}: the name {one_line_of(name, most=60)!r} is none, or that of a file")
    return own[0]
