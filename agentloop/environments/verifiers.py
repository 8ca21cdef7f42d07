"""Tasksets of the package verifiers as environments: `verifiers:TASKSET`, with their own prompts, tools and rewards.

A name is `verifiers:` and the id of a taskset, as verifiers knows it; options follow after commas and are those of its
configuration: `verifiers:my-taskset,split=train,task.strict=true`. Of the options, `rows` says how many of its tasks are loaded
at most, and `full` which reward counts as 1.

verifiers pins packages that vLLM does not work with, so that it lives in a virtual environment of its own, `.venv-verifiers` in
the project (`guest.py`, `verifiers_worker.py`). Episodes are scored there when they end: rescoring needs what was stored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from agentloop.environments.environment import Environment, Question
from agentloop.environments.guest import Connection, Guest, GuestFault, GuestSession, guest, interpreter
from agentloop.environments.options import option
from agentloop.errors import SettingError
from agentloop.records import Task
from agentloop.tools import Observation

PREFIX = "verifiers:"
VERSION = "0.4.0"
INSTALL = f"verifiers=={VERSION}"
ROWS = 10_000
"""Tasks that are loaded at most: some tasksets have no end."""

_WORKER = Path(__file__).with_name("verifiers_worker.py")
_PAGE = 500
_ALONE = "Do what is asked below."
_WITH_TOOLS = "A turn without a call ends the task: say your final answer in it."


class Play(GuestSession):
    """One episode of a task. A turn without a call ends it, as in verifiers."""

    def __init__(self, connection: Connection, about: Mapping[str, Any]) -> None:
        super().__init__(connection, about)
        # the task's system prompt, and what ends an episode
        self.instructions = "\n\n".join([about["instructions"] or _ALONE, *([_WITH_TOOLS] if self.tools else [])])

    def observe(self, turn: str) -> Observation:
        answer = self._connection.ask("observe", turn=turn)
        return Observation(answer["text"], answer["reward"], answer["done"])


class Verifiers(Environment):
    """The tasks of one taskset; `of_name` makes it."""

    guest: ClassVar[Guest]
    taskset: ClassVar[str]
    full: ClassVar[float]
    """Reward that counts as 1."""

    def questions(self, rng: random.Random) -> Iterator[Question]:
        for index in rng.sample(range(len(self._rows)), len(self._rows)):
            row = self._rows[index]
            payload = {"index": index, "key": row["key"], "version": VERSION}
            yield Question(self.taskset, row["question"], row["answer"], payload)

    def open(self, task: Task) -> Play:
        return Play(*self.guest.open(index=task.payload["index"], key=task.payload["key"]))

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Success is the weighted sum of the taskset's rewards, as a share of `full`; each reward is there by its name."""
        parts = {name: _share(value, 1.0) for name, value in outcome["rewards"].items() if name.isidentifier()}
        return {**parts, "success": _share(outcome["reward"], self.full)}

    def expert(self, task: Task) -> Sequence[str] | None:
        """Return the answer as the taskset's row has it, None where it has none. Not every taskset accepts it like this."""
        return [task.answer] if task.answer else None

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        count = self.guest.about["tasks"]
        pages = (self.guest.ask("tasks", first=first, count=_PAGE) for first in range(0, count, _PAGE))
        return [row for page in pages for row in page]


def of_name(name: str) -> type[Verifiers]:
    """Return the environment that `verifiers:TASKSET[,OPTION=VALUE…]` names.

    Raises SettingError, naming it, where the interpreter or the taskset is missing, for an option that there is not, and for a
    taskset that cannot be played here.
    """
    about = f"environment: {name}"
    taskset, *words = name.removeprefix(PREFIX).split(",")
    if not taskset:
        raise SettingError(f"{about}: name a taskset: {PREFIX}TASKSET")
    options = dict(option(name, word, "split=train", dots=True) for word in words)
    rows, full = options.pop("rows", ROWS), options.pop("full", 1.0)
    if type(rows) is not int or rows < 1:
        raise SettingError(f"{about}: rows must be a whole number of at least 1")
    if type(full) not in (int, float) or not 0 < full < float("inf"):
        raise SettingError(f"{about}: full must be a number above 0")
    config = {"version": VERSION, "id": taskset, "options": _nested(options), "rows": rows}
    python = interpreter("verifiers", about, f"{INSTALL} {_package(taskset)}")
    started = guest(python, _WORKER, json.dumps(config), about)
    parts = {"name": name, "guest": started, "taskset": taskset, "full": float(full), "__module__": __name__}
    environment = type("Verifiers", (Verifiers,), parts)
    _try(environment(), about)
    return environment


def _package(taskset: str) -> str:
    """What pip is asked for, most likely: `owner/name@version` is a package `name`."""
    name, _, version = taskset.rpartition("/")[2].partition("@")
    return f"{name}=={version}" if version else name


def _try(environment: Verifiers, about: str) -> None:
    """Open a session of the first task. Raises SettingError where that needs what is not there, a sandbox say."""
    (row,) = environment.guest.ask("tasks", first=0, count=1)
    try:
        Play(*environment.guest.open(index=0, key=row["key"])).close()
    except (GuestFault, TypeError) as error:  # the latter of a tool that cannot be called
        raise SettingError(f"{about}: {error}") from None


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """`{"task.strict": True}` as `{"task": {"strict": True}}`."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *above, last = name.split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _share(value: float, full: float) -> float:
    return min(max(value / full, 0.0), 1.0)
