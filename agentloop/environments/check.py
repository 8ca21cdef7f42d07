"""What can be known of an environment before anything is run: its sessions open, its tools can be called, it scores."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentloop.environments.environment import Environment
from agentloop.environments.model_judge import NotAsked
from agentloop.environments.session import Session
from agentloop.errors import SettingError, StoreError
from agentloop.records import Split, Task
from agentloop.text import one_line
from agentloop.tools.tool import close_all
from agentloop.verification import scored

_SPLITS: tuple[Split, ...] = ("train", "heldout")


def check_tools(environment: Environment, seed: int) -> None:
    """Make the tools of one task of each split, to see that they can be made and called by their names.

    Raises SettingError, in one line that names the tool, where that fails.
    """
    for split in _SPLITS:
        [task] = environment.tasks(split, 1, seed)
        session = _opened(environment, task)
        tools = session.tools
        if not isinstance(tools, Mapping):
            what = "tools() returns" if environment.plain else "the tools of its session are"
            raise SettingError(f"environment: {environment.name}: {what} {type(tools).__name__}, not a mapping")
        try:
            _check_named(tools, f"environment: {environment.name}")
        finally:
            _close(session)


def check_verifier(environment: Environment, seed: int) -> None:
    """Score one task of each split with its answer, be it right or not, and with the outcome of a session in which nothing was
    done. Raises SettingError, in one line.

    A model that is asked for a score is not asked here.
    """
    what = "verify()" if type(environment).score is Environment.score else "score()"
    for split in _SPLITS:
        [task] = environment.tasks(split, 1, seed)
        outcome = None if environment.plain else _outcome(environment, task)
        try:
            scored(environment, task, task.answer, outcome, who=f"environment: {environment.name}: {what}")
        except StoreError as error:
            if not isinstance(error.__cause__, NotAsked):
                raise SettingError(str(error)) from error


def _opened(environment: Environment, task: Task) -> Session:
    try:
        session = environment.open(task)
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, TypeError) and str(error).startswith("tool ") else one_line(error)
        what = "tools" if environment.plain else "open()"
        raise SettingError(f"environment: {environment.name}: {what} for {task.question!r:.60}: {reason}") from error
    if not isinstance(session, Session):
        raise SettingError(f"environment: {environment.name}: open() returns {type(session).__name__}, not a Session")
    return session


def _close(session: Session) -> None:
    with suppress(Exception):
        session.close()
    if isinstance(session.tools, Mapping):
        close_all(session.tools.values())


def _outcome(environment: Environment, task: Task) -> Any:
    session = _opened(environment, task)
    try:
        return json.loads(json.dumps(session.outcome(), allow_nan=False))
    except (Exception, SystemExit) as error:
        raise SettingError(f"environment: {environment.name}: outcome(): {one_line(error)}") from error
    finally:
        _close(session)


def _check_named(tools: Mapping[str, Any], about: str) -> None:
    for name, tool in tools.items():
        for attribute, kind in (("name", str), ("description", str), ("signature", inspect.Signature)):
            if not isinstance(getattr(tool, attribute, None), kind):
                raise SettingError(f"{about}: tool {name}: its {attribute} is no {kind.__name__}")
        if not callable(getattr(tool, "call", None)):
            raise SettingError(f"{about}: tool {name}: has no method call")
        if tool.name != name:
            raise SettingError(f"{about}: tool {name}: calls itself {tool.name}, and the model calls it by that")
