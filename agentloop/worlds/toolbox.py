"""The tools of one episode: they are called with JSON values and answer with text that can be stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.text import REPLACEMENT, encodable, one_line, said_replaced
from agentloop.tools import Tool, ToolError
from agentloop.tools.tool import close_all

MAX_CHARACTERS = 20_000
"""Of a result that are stored; the model is shown fewer (agentloop/rollout/prompt.py)."""


@dataclass(frozen=True)
class ToolDescription:
    """A tool as the prompt describes it."""

    name: str
    signature: str
    description: str


@dataclass(frozen=True)
class Reply:
    """A tool's answer to one call."""

    text: str
    """At most MAX_CHARACTERS of the result, and a note where some of them cannot be encoded; a complaint begins with
    `error: `."""
    complaint: bool = False
    """True where the tool refused the call: the model's mistake, which it is told."""
    omitted: int = 0
    """Characters of the result that `text` lacks."""


class ToolFault(Exception):
    """A tool did something other than answer or complain. A fault of the world, not of the model: the attempt has failed."""


class Toolbox:
    """The tools that an environment gives one episode. Calls are serial."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = dict(tools)

    @property
    def descriptions(self) -> list[ToolDescription]:
        return [ToolDescription(tool.name, str(tool.signature), tool.description) for tool in self._tools.values()]

    @property
    def ends(self) -> bool:
        """Return True where something that a tool holds, a server say, ends with the episode."""
        return any(hasattr(tool, "close") and not getattr(tool, "shared", False) for tool in self._tools.values())

    def close(self) -> None:
        """Close what tools hold, what they share with other episodes included. It never raises."""
        close_all(self._tools.values())

    def __enter__(self) -> Toolbox:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer. Raises ToolFault for an exception other than ToolError, whatever it is."""
        tool = self._tools.get(name)
        if tool is None:
            return _complaint(f"there is no tool named {name}; there are: {', '.join(sorted(self._tools))}")
        try:
            return _reply(str(tool.call(*args, **kwargs)))
        except ToolError as error:
            return _complaint(str(error))
        except BaseException as error:  # whatever a tool raises, SystemExit and KeyboardInterrupt included, ends here
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:
                return _complaint(str(error))  # raised by the call itself: arguments that the method does not take
            raise ToolFault(f"tool {name}: {one_line(error)}") from error


def _complaint(message: str) -> Reply:
    return _reply(f"error: {message}", complaint=True)


def _reply(text: str, *, complaint: bool = False) -> Reply:
    kept = text[:MAX_CHARACTERS]
    stored = encodable(kept)
    replaced = stored.count(REPLACEMENT) - kept.count(REPLACEMENT)
    return Reply(stored + said_replaced(replaced), complaint, omitted=len(text) - len(kept))
