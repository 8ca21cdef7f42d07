"""A world in this process, without limits: for scripted demonstrations and models that call nothing but built-in tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentloop.tools import Tool
from agentloop.worlds.toolbox import Reply, Toolbox, ToolDescription


class LocalWorld:
    """The tools of one episode."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._toolbox = Toolbox(tools)

    async def describe(self) -> list[ToolDescription]:
        """The tools, for the prompt."""
        return self._toolbox.descriptions

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer. Raises ToolFault."""
        return self._toolbox.call(name, args, kwargs)
