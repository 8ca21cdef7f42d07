"""Generators of the package reasoning-gym as environments: `reasoning-gym:chain_sum`, with their own verifiers.

A name is `reasoning-gym:` and a generator, or several joined by `+`; options follow after commas and are those of the
generator's configuration, which all generators of the name must have: `reasoning-gym:chain_sum,min_terms=3`. Of the options,
`size` asks for so many questions of the one data set with the seed `seed` (0), instead of questions without end.

A task has no tools. It is named by its question and by the seed and index that make it: the entry that its verifier needs is
made again from them. The hash of the question decides its split, as elsewhere.

Left out are generators whose entries have no answer, which differ from process to process, whose verifier takes anything for
an answer or evaluates what the model wrote as Python. Where one evaluates only what looks like numbers or a list, answers with
other characters are wrong, and are not shown to it.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any, ClassVar

from agentloop.environments.environment import Environment, Question
from agentloop.environments.options import option
from agentloop.errors import SettingError
from agentloop.records import Task
from agentloop.text import one_line
from agentloop.tools import Tool

PREFIX = "reasoning-gym:"
BLOCK = 500
"""Entries of the data set that an endless stream goes through before the next: some are made for a size, so a task needs it."""

NO_ANSWER = "its entries have no answer"
NOT_THE_SAME = "the same seed makes another question in another process"
TAKES_ANYTHING = "its verifier takes any text for one of the two answers"
ENDLESS = "some of its questions take minutes to make"
EVALUATES = "its verifier evaluates what the model writes as Python"
LEFT_OUT: Mapping[str, str] = {
    "boxnet": NO_ANSWER,
    "graph_color": NO_ANSWER,
    "propositional_logic": NO_ANSWER,
    "rubiks_cube": NO_ANSWER,
    "rush_hour": NO_ANSWER,
    "isomorphic_strings": NOT_THE_SAME,
    "knight_swap": NOT_THE_SAME,
    "list_functions": NOT_THE_SAME,
    "ransom_note": NOT_THE_SAME,
    "word_ladder": NOT_THE_SAME,
    "futoshiki": ENDLESS,
    "game_of_life_halting": TAKES_ANYTHING,
    "polynomial_multiplication": EVALUATES,
    "simple_integration": EVALUATES,
    "intermediate_integration": EVALUATES,
    "codeio": "its questions are programs of unknown origin, which are run to score an answer",
    "composite": "it is made of other generators: join them by +",
}
"""Generators that are refused, with the reason (of reasoning-gym 0.1.25)."""

_MOST_CHARACTERS = 2000
_NUMBERS = re.compile(r"(?!.*\*\s*\*)[0-9+\-*/(). ]*", re.DOTALL)
"""Powers are none of the operators that these tasks allow, and a few of them take all memory."""
_LIST = re.compile(r"[0-9\-\s,.\[\]]*")
EVALUATED: Mapping[str, re.Pattern[str]] = {
    "countdown": _NUMBERS,
    "puzzle24": _NUMBERS,
    "spiral_matrix": _LIST,
    "binary_matrix": _LIST,
    "string_insertion": re.compile(r"[A-E'\", \[\]]*"),
    "n_queens": re.compile(r"[Q_'\",\s\[\]]*"),
}
"""Characters of an answer that a verifier may see which evaluates it: none of them names anything."""

_NEW_LINE = "\\n"
_ON_ONE_LINE = f"\n\nWrite the answer on one line, with {_NEW_LINE} where a new line begins."


class ReasoningGym(Environment):
    """An environment of one generator or several; `of_name` makes it."""

    generators: ClassVar[tuple[str, ...]]
    options: ClassVar[dict[str, Any]]
    """Of the generators' configuration."""
    size: ClassVar[int | None]
    """Questions of the data set with the seed `seed`; None: questions without end."""
    seed: ClassVar[int]

    def questions(self, rng: random.Random) -> Iterator[Question]:
        """Yield questions in an order that `rng` decides."""
        if self.size is not None:
            places = [(generator, index) for generator in self.generators for index in range(self.size)]
            rng.shuffle(places)
            for generator, index in places:
                yield from self._question(generator, self.seed, index)
            return
        while True:
            # a data set seeds its entries by its own seed and their index, so that blocks must not overlap
            seed = BLOCK * rng.randrange(2**31 // BLOCK)
            for index in range(BLOCK):
                for generator in self.generators:
                    yield from self._question(generator, seed, index)

    def tools(self, task: Task) -> dict[str, Tool]:
        return {}

    def verify(self, task: Task, answer: str | None) -> float:
        """Return what the generator's own verifier says: 1.0 for a right answer, and half of what it gives any other.

        An episode counts as solved from 0.5 on, which many a verifier gives for 15 where 5 is right: half of the characters.
        Raises SettingError where the installed reasoning-gym makes another question of the task's seed.
        """
        entry = self._entry(task.family, task.payload["seed"], task.payload["index"])
        if _asked(entry) != task.question:
            raise SettingError(
                f"environment: {self.name}: the installed reasoning-gym makes another question of seed {task.payload['seed']}"
            )
        if answer is None or len(answer) > max(_MOST_CHARACTERS, 2 * len(task.answer)):
            return 0.0
        given = answer.strip().replace(_NEW_LINE, "\n")
        right = entry["answer"]
        if given == right.strip():
            given = right
        allowed = EVALUATED.get(task.family)
        if allowed is not None and not allowed.fullmatch(given):
            return 0.0
        try:
            with redirect_stdout(io.StringIO()):  # some print what they think
                value = float(self._data(task.family, task.payload["seed"]).score_answer(given, entry))
        except Exception:  # what the verifier cannot read is no answer
            return 0.0
        return 1.0 if value >= 1 else max(value, 0.0) / 2

    def expert(self, task: Task) -> tuple[str, ...]:
        """Return the answer alone: nobody shows how it is found."""
        return (f"Answer: {task.answer}",)

    def _question(self, generator: str, seed: int, index: int) -> Iterator[Question]:
        entry = self._entry(generator, seed, index)
        right = entry["answer"]
        if not isinstance(right, str):
            raise SettingError(f"environment: {self.name}: {generator} is left out: {NO_ANSWER}")
        if right.strip():  # a model cannot answer with nothing
            yield Question(
                generator, _asked(entry), right.strip().replace("\n", _NEW_LINE), {"seed": seed, "index": index}
            )

    def _entry(self, generator: str, seed: int, index: int) -> dict[str, Any]:
        return _entry(generator, _key(self.options), self.size or BLOCK, seed, index)

    def _data(self, generator: str, seed: int) -> Any:
        return _data(generator, _key(self.options), self.size or BLOCK, seed)


def of_name(name: str) -> type[ReasoningGym]:
    """Return the environment that `reasoning-gym:GENERATOR[+GENERATOR…][,OPTION=VALUE…]` names.

    Raises SettingError, naming it, for a generator or an option that there is not, ModuleNotFoundError without the package.
    """
    from reasoning_gym.factory import DATASETS

    generators, *words = name.removeprefix(PREFIX).split(",")
    names = tuple(generators.split("+"))
    for generator in names:
        if generator not in DATASETS:
            raise SettingError(f"environment: {name}: reasoning-gym has no generator {generator[:60]!r}")
        if generator in LEFT_OUT:
            raise SettingError(f"environment: {name}: {generator} is left out: {LEFT_OUT[generator]}")
    if len(set(names)) < len(names):
        raise SettingError(f"environment: {name}: names a generator twice")
    options = dict(option(name, word, "min_terms=3") for word in words)
    size, seed = options.pop("size", None), options.pop("seed", 0)
    for known, value, least in (("size", size, 1), ("seed", seed, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise SettingError(f"environment: {name}: {known} must be a whole number of at least {least}")
    for generator in names:
        try:
            _data(generator, _key(options), size or BLOCK, seed)
        except Exception as error:  # AssertionErrors of validate(), TypeErrors of unknown options, others
            raise SettingError(f"environment: {name}: {generator}: {one_line(error)}") from None
    parts = {"name": name, "generators": names, "options": options, "size": size, "seed": seed, "__module__": __name__}
    return type("ReasoningGym", (ReasoningGym,), parts)


def _asked(entry: Mapping[str, Any]) -> str:
    more = _ON_ONE_LINE if isinstance(entry["answer"], str) and "\n" in entry["answer"].strip() else ""
    return f"{entry['question']}{more}"


_Options = tuple[tuple[str, Any], ...]


def _key(options: Mapping[str, Any]) -> _Options:
    return tuple(sorted(options.items()))


@lru_cache(maxsize=64)
def _data(generator: str, options: _Options, size: int, seed: int) -> Any:
    """The data set; making one may take seconds."""
    from reasoning_gym import create_dataset

    return create_dataset(generator, size=size, seed=seed, **dict(options))


@lru_cache(maxsize=16384)
def _entry(generator: str, options: _Options, size: int, seed: int, index: int) -> dict[str, Any]:
    """One entry; making one takes up to two seconds, and each is needed for every sample of its task."""
    with redirect_stdout(io.StringIO()):
        return _data(generator, options, size, seed)[index]
