"""A session as its world is asked about it: JSON in, bounded text and JSON out, whichever process it is in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.environments.environment import Environment
from agentloop.environments.session import Session
from agentloop.records import Task
from agentloop.text import encodable, one_line, one_line_of
from agentloop.tools import Observation
from agentloop.worlds.toolbox import MAX_CHARACTERS, Reply, Toolbox, ToolDescription, ToolFault, reply_of

MAX_OUTCOME_CHARACTERS = MAX_CHARACTERS
"""Of an outcome as JSON; a longer one is a fault of the environment."""


@dataclass(frozen=True)
class WorldDescription:
    """A world as the opening prompt describes it, and what may be asked of it."""

    tools: tuple[ToolDescription, ...] = ()
    speaks: bool = False
    """True where turns that call no tool are put to the session, which answers them."""
    has_outcome: bool = False
    """True where the session's outcome is asked for at the end."""
    answers: bool = True
    """False where an episode has no final answer."""
    instructions: str | None = None
    """The environment's own first sentences of the prompt; None: agentloop's."""

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> WorldDescription:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**value, "tools": tuple(ToolDescription(**tool) for tool in value["tools"])})


class Stage:
    """The session of one episode. Whatever is asked of it is asked in turn."""

    def __init__(self, session: Session, environment: str) -> None:
        """`environment`: the name that faults begin with. Raises ToolFault where `session` is none."""
        self._about = f"environment {environment}"
        if not isinstance(session, Session):
            raise ToolFault(f"{self._about}: open() returns {type(session).__name__}, not a Session")
        self._session = session
        self._toolbox = Toolbox(session.tools)

    @classmethod
    def open(cls, environment: Environment, task: Task) -> Stage:
        """A fresh session for the task. Raises ToolFault, in one line, where it cannot be opened."""
        about = "the environment's tools" if environment.plain else f"environment {environment.name}: open()"
        try:
            return cls(environment.open(task), environment.name)
        except ToolFault:
            raise
        except BaseException as error:  # the environment's code is not ours
            raise ToolFault(f"{about}: {one_line(error)}") from error

    @property
    def plain(self) -> bool:
        """Return True where there is nothing but tools."""
        return type(self._session) is Session

    @property
    def ends(self) -> bool:
        """Return True where something that is held ends with the episode: the session is then to be closed."""
        return self._session.holds or self._toolbox.ends

    def describe(self) -> WorldDescription:
        """The world, for the prompt. Raises ToolFault where its instructions are no text."""
        session = self._session
        if not isinstance(session.instructions, str | None):
            raise ToolFault(f"{self._about}: its instructions are {type(session.instructions).__name__}, not a text")
        instructions = None if session.instructions is None else encodable(session.instructions)
        return WorldDescription(
            tuple(self._toolbox.descriptions), session.speaks, session.has_outcome, bool(session.answers), instructions
        )

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Reply:
        """The tool's answer. Raises ToolFault."""
        return self._toolbox.call(name, args, kwargs)

    def observe(self, turn: str) -> Reply | None:
        """Return what the session says to the turn; None where it ends the episode without a word. Raises ToolFault."""
        said = self._asked("observe()", lambda: self._session.observe(turn))
        if not isinstance(said, str | Observation | None):
            raise ToolFault(
                f"{self._about}: observe() returns {type(said).__name__}, not a text, an Observation or None"
            )
        return None if said is None else reply_of(said, f"{self._about}: observe()")

    def outcome(self) -> Any:
        """The session's outcome as JSON that can be stored. Raises ToolFault where it is none, or too long."""
        found = self._asked("outcome()", self._session.outcome)
        try:
            text = encodable(json.dumps(found, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            reason = one_line_of(error, most=200)
            raise ToolFault(f"{self._about}: outcome() returns what is not JSON: {reason}") from error
        if len(text) > MAX_OUTCOME_CHARACTERS:
            raise ToolFault(
                f"{self._about}: outcome() returns {len(text):,} characters of JSON, more than {MAX_OUTCOME_CHARACTERS:,}"
            )
        return json.loads(text)

    def close(self) -> None:
        """Close the session and its tools, what they share with other episodes included. It never raises."""
        if self._session.holds:
            try:
                self._session.close()
            except Exception:  # the episode is over, and its result is known
                pass
        self._toolbox.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except BaseException as error:  # whatever it raises, SystemExit included
            raise ToolFault(f"{self._about}: {what}: {one_line(error)}") from error
