"""One episode's side of an environment: the tools it offers, what it says back, and what it knows at the end.

A session lives in the process of the episode's world. It may hold whatever it likes: a game's board, a database, a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from agentloop.tools import Observation, Tool


class Session:
    """One episode of one task, as `Environment.open` gives it; by itself nothing but tools.

    A subclass overrides what its world can do: `observe` where it speaks, `outcome` where it knows how the episode went,
    `close` where it holds something. What it does not override is never asked for.
    """

    tools: Mapping[str, Tool] = MappingProxyType({})
    """The tools that the model may call, by name. They may return an Observation, too."""
    instructions: str | None = None
    """What the opening prompt says in place of agentloop's own first sentence: who the model is, and what the world is. Tools
    and the form of an answer are described after it."""
    answers: bool = True
    """False: the episode has no final answer. The prompt asks for none, and a line `Answer: …` is a turn like any other."""

    def __init__(self, tools: Mapping[str, Tool] | None = None) -> None:
        if tools is not None:
            self.tools = tools

    def observe(self, turn: str) -> str | Observation | None:
        """Return what the world says to a turn of the model that calls no tool; None where the episode ends with it.

        `turn` is the text of the turn. A final answer is the last turn that it is told of; what it returns then is stored, its
        reward too, and the episode ends.
        """
        return None

    def outcome(self) -> Any:
        """Return what is to be known of the finished episode, as JSON: `Environment.score` is given it, now and later.

        Asked for once, however the episode ended.
        """
        return None

    def close(self) -> None:
        """Let go of what the session holds. The tools are closed by themselves, if they have a method `close`."""

    @property
    def speaks(self) -> bool:
        """Return True where the session has a say: turns that call no tool are put to `observe`."""
        return type(self).observe is not Session.observe

    @property
    def has_outcome(self) -> bool:
        """Return True where `outcome` is to be asked for."""
        return type(self).outcome is not Session.outcome

    @property
    def holds(self) -> bool:
        """Return True where `close` is to be called after the episode."""
        return type(self).close is not Session.close
