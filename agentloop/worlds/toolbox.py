"""The tools of one episode: they are called with JSON values and answer with text that can be stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.text import REPLACEMENT, encodable, one_line, one_line_of, said_replaced
from agentloop.tools import Observation, Tool, ToolError
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
    """A tool's answer to one call, or what a session says to a turn."""

    text: str
    """At most MAX_CHARACTERS of the result, and a note where some of them cannot be encoded; a complaint begins with
    `error: `."""
    complaint: bool = False
    """True where the tool refused the call: the model's mistake, which it is told."""
    omitted: int = 0
    """Characters of the result that `text` lacks."""
    reward: float | None = None
    """Reward of the model's turn that led to it; None where none was given."""
    done: bool = False
    """True where the episode ends with it."""


class ToolFault(Exception):
    """A tool or a session did something other than answer or complain. A fault of the world, not of the model: the attempt has
    failed."""


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
            result = tool.call(*args, **kwargs)
            return reply_of(result, f"tool {name}") if isinstance(result, Observation) else _reply(str(result))
        except ToolFault:
            raise
        except ToolError as error:
            return _complaint(str(error))
        except BaseException as error:  # whatever a tool raises, SystemExit and KeyboardInterrupt included, ends here
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:
                return _complaint(str(error))  # raised by the call itself: arguments that the method does not take
            raise ToolFault(f"tool {name}: {one_line(error)}") from error


def reply_of(said: str | Observation, who: str) -> Reply:
    """Return what was said to the model as it is stored. Raises ToolFault, naming `who` said it, where it is no such thing."""
    observation = said if isinstance(said, Observation) else Observation(said)
    if not isinstance(observation.text, str):
        raise ToolFault(f"{who} says {one_line_of(observation.text, most=60)}, which is no text")
    try:
        reward = None if observation.reward is None else float(observation.reward)
    except Exception:  # whatever somebody takes for a number
        reward = math.nan
    if reward is not None and not math.isfinite(reward):
        raise ToolFault(f"{who}: the reward {one_line_of(observation.reward, most=60)} is no finite number")
    return _reply(observation.text, reward=reward, done=bool(observation.done))


def _complaint(message: str) -> Reply:
    return _reply(f"error: {message}", complaint=True)


def _reply(text: str, *, complaint: bool = False, reward: float | None = None, done: bool = False) -> Reply:
    kept = text[:MAX_CHARACTERS]
    stored = encodable(kept)
    replaced = stored.count(REPLACEMENT) - kept.count(REPLACEMENT)
    return Reply(stored + said_replaced(replaced), complaint, len(text) - len(kept), reward, done)
