"""The tools that environments give the worlds of a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentloop import environments
from agentloop.records import Task
from agentloop.tools import Tool


def tools_of(sources: Sequence[str]) -> Callable[[Task], dict[str, Tool]]:
    """Import the environments, by name or file as in the settings, and return what makes a task's tools.

    Raises SettingError.
    """
    for source in sources:
        environments.get(source, apart=False)  # from then on it is known by its name
    known: dict[str, environments.Environment] = {}

    def tools(task: Task) -> dict[str, Tool]:
        environment = known.get(task.environment) or known.setdefault(
            task.environment, environments.get(task.environment)
        )
        return environment.tools(task)

    return tools
