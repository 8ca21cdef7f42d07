"""What a tool is: a name, a signature, a description, and a call that answers with text or complains with text."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from agentloop.tools.observation import Observation


class ToolError(Exception):
    """Raised by a tool that refuses a call or cannot carry it out. The model is told the message: one short line."""


class Tool(Protocol):
    """Interface of a tool: name, description, signature and a call. FunctionTool makes one of a function.

    A tool runs in a process of the episode's own, with limits on time and memory. One that has a method `close()` is closed
    after its episode, and its process ends with it; where it also has `shared = True`, both last for further episodes.
    """

    name: str
    """Name that the model calls the tool by."""
    description: str
    """What the prompt says about the tool: one or a few lines."""
    signature: inspect.Signature
    """Parameters that the model may pass."""

    def call(self, /, *args: Any, **kwargs: Any) -> str | Observation:
        """Return the result as text, whatever arguments a model invents, or raise ToolError.

        An Observation gives the call a reward as well, or ends the episode. Anything else that it raises ends this attempt at
        the episode.
        """
        ...


def by_name(*tools: Tool) -> dict[str, Tool]:
    """Return the tools by their names, as an environment gives them. Raises TypeError, naming it, where two have one name."""
    named = {tool.name: tool for tool in tools}
    for name in named:
        if [tool.name for tool in tools].count(name) > 1:
            raise TypeError(f"tool {name}: there are two of that name")
    return named


def close_all(tools: Iterable[Any]) -> None:
    """Close what the tools hold, what they share with other episodes included. It never raises."""
    for tool in tools:
        with suppress(Exception):
            if hasattr(tool, "close"):
                tool.close()
