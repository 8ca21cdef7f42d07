"""Where tasks come from and what verifies them: the built-in environments, and the user's own from a file."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

from agentloop.environments.arithmetic import Arithmetic
from agentloop.environments.check import check_tools
from agentloop.environments.database import Database
from agentloop.environments.environment import Environment, Question, ScriptedEnvironment
from agentloop.environments.question_file import QuestionFile
from agentloop.errors import SettingError
from agentloop.settings import PROJECT_ROOT
from agentloop.user_code import run_file

__all__ = ["Environment", "Question", "QuestionFile", "ScriptedEnvironment", "check_tools", "get"]

_ENVIRONMENTS: dict[str, type[Environment]] = {environment.name: environment for environment in (Arithmetic, Database)}


def get(name: str) -> Environment:
    """The environment of that name, or the one that a Python file defines; from then on its name is known too.

    A relative path is relative to the project's root. Raises SettingError, in one line.
    """
    if name.endswith(".py"):
        environment = _from_file(PROJECT_ROOT / name)
        if _ENVIRONMENTS.setdefault(environment.name, environment) is not environment:
            raise SettingError(f"environment: {name} is named {environment.name!r}, and there is another of that name")
        return environment()
    if name not in _ENVIRONMENTS:
        known_names = ", ".join(sorted(_ENVIRONMENTS))
        raise SettingError(f"environment: there is no {name!r}; there are: {known_names}, or the path of a .py file")
    return _ENVIRONMENTS[name]()


@cache
def _from_file(path: Path) -> type[Environment]:
    if not path.is_file():
        raise SettingError(f"environment: there is no file {path}")
    module = run_file(path, about="environment:", error=SettingError)
    own = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Environment) and each.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise SettingError(f"environment: {path} defines {len(own)} environments, it must be one")
    if inspect.isabstract(own[0]) or not getattr(own[0], "name", None):
        lacks = sorted(own[0].__abstractmethods__) or ["name"]
        raise SettingError(f"environment: {path}: {own[0].__name__} lacks {', '.join(lacks)}")
    return own[0]
