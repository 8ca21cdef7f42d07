"""What can be known of an environment before anything is run: its tools can be made and called, its verifier answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from agentloop.environments.environment import Environment
from agentloop.errors import SettingError, StoreError
from agentloop.records import Split
from agentloop.text import one_line
from agentloop.tools.tool import close_all
from agentloop.verification import verified

_SPLITS: tuple[Split, ...] = ("train", "heldout")


def check_tools(environment: Environment, seed: int) -> None:
    """Make the tools of one task of each split, to see that they can be made and called by their names.

    Raises SettingError, in one line that names the tool, where that fails.
    """
    for split in _SPLITS:
        [task] = environment.tasks(split, 1, seed)
        try:
            tools = environment.tools(task)
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, TypeError) and str(error).startswith("tool ") else one_line(error)
            raise SettingError(f"environment: {environment.name}: tools for {task.question!r:.60}: {reason}") from error
        if not isinstance(tools, Mapping):
            raise SettingError(
                f"environment: {environment.name}: tools() returns {type(tools).__name__}, not a mapping"
            )
        try:
            _check_named(tools, f"environment: {environment.name}")
        finally:
            close_all(tools.values())


def check_verifier(environment: Environment, seed: int) -> None:
    """Verify the answer of one task of each split, be it right or not. Raises SettingError, in one line."""
    for split in _SPLITS:
        [task] = environment.tasks(split, 1, seed)
        try:
            verified(environment.verify, task, task.answer, who=f"environment: {environment.name}: verify()")
        except StoreError as error:
            raise SettingError(str(error)) from error


def _check_named(tools: Mapping[str, Any], about: str) -> None:
    for name, tool in tools.items():
        for attribute, kind in (("name", str), ("description", str), ("signature", inspect.Signature)):
            if not isinstance(getattr(tool, attribute, None), kind):
                raise SettingError(f"{about}: tool {name}: its {attribute} is no {kind.__name__}")
        if not callable(getattr(tool, "call", None)):
            raise SettingError(f"{about}: tool {name}: has no method call")
        if tool.name != name:
            raise SettingError(f"{about}: tool {name}: calls itself {tool.name}, and the model calls it by that")
