"""A world in this process, without limits: for scripted demonstrations and models that call nothing but built-in tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentloop.environments.environment import Environment
from agentloop.records import Task
from agentloop.worlds.stage import Stage, WorldDescription
from agentloop.worlds.toolbox import Reply


class LocalWorld:
    """The session of one episode. Every call raises ToolFault where the session or a tool of it fails."""

    def __init__(self, environment: Environment, task: Task) -> None:
        """Open a fresh session. Raises ToolFault."""
        self._stage = Stage.open(environment, task)

    @property
    def plain(self) -> bool:
        """Return True where there is nothing but tools."""
        return self._stage.plain

    async def describe(self) -> WorldDescription:
        """The world, for the prompt."""
        return self._stage.describe()

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer."""
        return self._stage.call(name, args, kwargs)

    async def observe(self, turn: str) -> Reply | None:
        """Return what the session says to the turn; None where it ends the episode."""
        return self._stage.observe(turn)

    async def outcome(self) -> Any:
        """The session's outcome, as JSON."""
        return self._stage.outcome()
