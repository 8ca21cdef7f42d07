"""Environments that speak OpenEnv's protocol: `openenv:URL` of a server, or `openenv:MODULE:APP`, which is started here.

Options follow after commas: `seeds` asks for the episodes of so many seeds, from 0 on, instead of episodes without end; `full`
says which sum of rewards counts as 1; `reset.NAME=VALUE` is passed to the environment's `reset` beside the seed.

openenv-core brings a hundred packages, so that it lives in a virtual environment of its own, `.venv-openenv` in the project
(`guest.py`, `openenv_worker.py`). A task is a seed, and its question what is seen first; each call of a tool is a step.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from agentloop.environments.environment import Environment, Question
from agentloop.environments.guest import Connection, Guest, GuestFault, GuestSession, guest, interpreter
from agentloop.environments.options import option
from agentloop.environments.seeds import drawn
from agentloop.errors import SettingError
from agentloop.records import Split, Task

PREFIX = "openenv:"
VERSION = "0.3.0"
INSTALL = f"openenv-core=={VERSION}"

_WORKER = Path(__file__).with_name("openenv_worker.py")
_URL = re.compile(r"https?://\S+")
_APP = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_AT_ONCE = 32
"""Episodes whose beginnings are asked for together."""
_ACT = "Act by calls, one each turn, until the episode is over."


class Play(GuestSession):
    """One episode. Each call is a step, whose reward is the turn's; the environment says when it is over."""

    def __init__(self, connection: Connection, about: Mapping[str, Any], described: str) -> None:
        """`described`: what the environment says of itself."""
        super().__init__(connection, about)
        self.instructions = f"{described}\n\n{_ACT}"
        self.opening: str = about["opening"]


class OpenEnv(Environment):
    """Episodes of one server; `of_name` makes it."""

    guest: ClassVar[Guest]
    about: ClassVar[Mapping[str, Any]]
    """Name, description and version that the server gives the environment."""
    size: ClassVar[int | None]
    """The episodes are those of so many seeds, from 0 on; None: of all seeds."""
    full: ClassVar[float]
    """Sum of rewards that counts as 1."""
    _openings: ClassVar[dict[int, str]]

    def stream(self, split: Split, seed: int, chapter: int = 0) -> Iterator[Task]:
        """Yield the episodes of a split in the order that this seed gives, none twice. They begin as they are asked for.

        Raises SettingError where the server fails.
        """
        rng = random.Random(f"{self.name}/{split}/{seed}" + (f"/{chapter}" if chapter else ""))
        numbers = (number for number in drawn(rng, self.size) if self.split_of_seed(number) == split)
        while block := list(islice(numbers, _AT_ONCE)):
            self._begin(block)
            for number in block:
                question = self._question(number)
                yield self._named(
                    Task(self.name, question.family, question.text, question.answer, split, question.payload)
                )

    def questions(self, rng: random.Random) -> Iterator[Question]:
        for number in drawn(rng, self.size):
            self._begin([number])
            yield self._question(number)

    def open(self, task: Task) -> Play:
        """Return the episode from its beginning. Raises SettingError where the server begins another one."""
        number = task.payload["seed"]
        play = Play(*self.guest.open(seed=number), f"{self.about['name']}: {self.about['description']}")
        if _asked(number, play.opening) != task.question:
            play.close()
            raise SettingError(f"environment: {self.name}: the server begins another episode of seed {number}")
        return play

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Success is the sum of the steps' rewards, as a share of `full`; `finished` is 1 where the environment ended it."""
        share = min(max(outcome["reward"] / self.full, 0.0), 1.0)
        return {"success": share, "finished": float(outcome["done"])}

    def split_of_seed(self, number: int) -> Split:
        """Return the split of a seed: one in five is held out."""
        return self.split_of(f"episode {number}")

    def _begin(self, numbers: list[int]) -> None:
        """See to it that the beginnings of these seeds are known."""
        missing = [number for number in numbers if number not in self._openings]
        if missing:
            try:
                self._openings.update(zip(missing, self.guest.ask("openings", seeds=missing)))
            except GuestFault as error:
                raise SettingError(f"environment: {self.name}: {error}") from None

    def _question(self, number: int) -> Question:
        payload = {"seed": number, "version": self.about["version"] or ""}
        return Question(
            self.about["name"],
            _asked(number, self._openings[number]),
            "",
            payload,
            split=self.split_of_seed(number),
        )


def of_name(name: str) -> type[OpenEnv]:
    """Return the environment that `openenv:URL[,OPTION=VALUE…]` or `openenv:MODULE:APP[,OPTION=VALUE…]` names.

    Raises SettingError, naming it, where the interpreter or the server is missing, for an option that there is not, and for a
    server whose episodes do not begin alike for the same seed.
    """
    about = f"environment: {name}"
    source, *words = name.removeprefix(PREFIX).split(",")
    is_url = bool(_URL.fullmatch(source))
    if not is_url and not _APP.fullmatch(source):
        raise SettingError(
            f"{about}: name a server's URL or its application: {PREFIX}http://… or {PREFIX}server.app:app"
        )
    options = dict(option(name, word, "seeds=200", dots=True) for word in words)
    size, full = options.pop("seeds", None), options.pop("full", 1.0)
    if size is not None and (type(size) is not int or size < 1):
        raise SettingError(f"{about}: seeds must be a whole number of at least 1")
    if type(full) not in (int, float) or not 0 < full < float("inf"):
        raise SettingError(f"{about}: full must be a number above 0")
    reset = {known.removeprefix("reset."): value for known, value in options.items() if known.startswith("reset.")}
    for known in options:
        if not known.startswith("reset.") or known == "reset.seed":
            raise SettingError(f"{about}: there is no option {known}; there are seeds, full and reset.NAME")
    config = {"version": VERSION, "url": source if is_url else None, "app": None if is_url else source, "reset": reset}
    python = interpreter("openenv", about, INSTALL)
    started = guest(python, _WORKER, json.dumps(config), about)
    try:
        survey = started.ask("survey")
        first, again = started.ask("openings", seeds=[0, 0])
    except GuestFault as error:
        raise SettingError(f"{about}: {error}") from None
    if first != again:
        raise SettingError(f"{about}: its episodes of the same seed do not begin alike")
    parts = {
        "name": name,
        "guest": started,
        "about": survey,
        "size": size,
        "full": float(full),
        "_openings": {0: first},
        "__module__": __name__,
    }
    return type("OpenEnv", (OpenEnv,), parts)


def _asked(number: int, opening: str) -> str:
    """The question: beginnings may be alike where episodes are not."""
    return f"{opening}\n\nThis is episode {number}."
