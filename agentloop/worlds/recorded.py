"""A world that says what was recorded of its tools, whatever they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentloop.text import encodable
from agentloop.worlds.stage import WorldDescription
from agentloop.worlds.toolbox import MAX_CHARACTERS, Reply, ToolDescription


class RecordedWorld:
    """The tools of one episode, and nothing but tools."""

    plain = True

    def __init__(self, results: Sequence[str], tools: Sequence[ToolDescription]) -> None:
        """`results`: of the calls in their order. `tools`: as the prompt describes them."""
        self._results, self._tools = iter(results), tuple(tools)

    async def describe(self) -> WorldDescription:
        """The tools, for the prompt."""
        return WorldDescription(self._tools)

    async def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The next result; an empty one where nothing more was recorded."""
        text = next(self._results, "")
        return Reply(encodable(text[:MAX_CHARACTERS]), omitted=max(0, len(text) - MAX_CHARACTERS))

    async def observe(self, turn: str) -> None:
        """Nothing: it does not speak."""

    async def outcome(self) -> None:
        """Nothing: it has no outcome."""
