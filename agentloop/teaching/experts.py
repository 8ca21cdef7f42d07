"""Scripts from an environment's own experts. They are the user's code."""

from __future__ import annotations

from collections.abc import Iterable

from agentloop.environments import Environment
from agentloop.environments.environment import source_file
from agentloop.errors import SettingError
from agentloop.records import Task
from agentloop.teaching.script import Script
from agentloop.text import one_line, one_line_of
from agentloop.user_code import line_in


def scripts(environment: Environment, tasks: Iterable[Task]) -> list[Script]:
    """Return what the environment's expert says at these tasks; those at which it says nothing are left out.

    Raises SettingError where it says nothing at all, fails, or returns anything but turns.
    """
    found = [said for task in tasks if (said := script(environment, task))]
    if not found:
        raise SettingError(
            f"environment: {environment.name} has no expert for its tasks; teach --from a file, stored or a teacher's URL"
        )
    return found


def script(environment: Environment, task: Task) -> Script | None:
    """Return what the environment's expert says at this task; None where it says nothing.

    Raises SettingError where it fails, or returns anything but turns.
    """
    turns = _asked(environment, task)
    return Script(task, turns) if turns else None


def _asked(environment: Environment, task: Task) -> tuple[str, ...] | None:
    about = f"environment: {environment.name}: expert() for {one_line_of(task.question, most=60)!r}"
    try:
        turns = environment.expert(task)
    except (Exception, SystemExit) as error:
        where = line_in(error, source_file(environment))
        raise SettingError(f"{about}{where}: {one_line(error)}") from error
    if turns is None:
        return None
    if isinstance(turns, str) or not isinstance(turns, Iterable):
        raise SettingError(f"{about} returns {type(turns).__name__}, not a list of turns")
    said = tuple(turns)
    if not all(isinstance(turn, str) for turn in said):
        raise SettingError(f"{about} returns {one_line_of(said, most=60)}, not a list of turns")
    return said
