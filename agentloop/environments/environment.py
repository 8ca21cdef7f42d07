"""What an environment is: a seeded stream of tasks, a session for each episode, and what its outcome is worth.

Unless its source says otherwise, the split of a task is decided by the hash of its question alone. Whatever the seed,
the order or the number of tasks asked for, no question can be in two splits.
"""

from __future__ import annotations

import hashlib
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from agentloop.environments.session import Session
from agentloop.errors import AgentloopError, SettingError
from agentloop.records import Split, Task
from agentloop.text import is_blank, one_line, one_line_of
from agentloop.tools import Tool
from agentloop.user_code import line_in

_BUCKETS = 20
_SPLITS: tuple[tuple[Split, range], ...] = (
    ("demonstration", range(0, 8)),
    ("train", range(8, 16)),
    ("heldout", range(16, 20)),
)
"""Which of the hash's buckets belong to which split."""

_PATIENCE = 10_000
"""Draws without a new question after which a stream is held to be exhausted."""


class TooFewTasks(SettingError):
    """Raised where more tasks of a split are asked for than the environment has."""

    def __init__(self, message: str, available: int = 0) -> None:
        super().__init__(message)
        self.available = available
        """Tasks of the split."""


def too_few(environment: str, split: Split, available: int, needed: int) -> TooFewTasks:
    """Return the error of an environment, by its name, with fewer tasks of a split than are needed."""
    return TooFewTasks(
        f"environment: {environment} has {available} {split} tasks, fewer than the {needed} asked for", available
    )


@dataclass(frozen=True)
class Question:
    """One question with its answer, as an environment yields it: a task before its split is known."""

    family: str
    """Name of the kind of question; results are shown for each family."""
    text: str
    """The question as the model reads it."""
    answer: str
    """The right answer, which `verify` compares with."""
    payload: dict[str, Any]
    """JSON that `tools` and `verify` need for this question; part of the task's name."""
    split: Split | None = None
    """The question's split, where the source has splits of its own; None: the hash of the text decides."""


Kind = Literal["right", "habit", "noise"]
"""What a demonstration shows."""


@dataclass(frozen=True)
class Demonstration:
    """A scripted episode: what the model is to say, turn by turn, for the warm start of the tiny model."""

    task: Task
    kind: Kind
    """`right` ends in the right answer, `habit` in a wrong one by the family's own bad habit, `noise` in any."""
    turns: tuple[str, ...]
    """Calls, then the answer."""


def split_of(question: str) -> Split:
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % _BUCKETS
    return next(split for split, buckets in _SPLITS if bucket in buckets)


def _fault(question: Any) -> str:
    """What is wrong with what an environment yields; nothing where it is a question with an answer."""
    if not isinstance(question, Question):
        return f"{type(question).__name__}, not a Question"
    for name, kind in (("text", str), ("answer", str), ("family", str), ("payload", dict)):
        value = getattr(question, name)
        if not isinstance(value, kind):
            return f"a question whose {name} is {type(value).__name__}, not {kind.__name__}"
        if kind is str and "\0" in value:
            return f"a question whose {name} has a null character"
    if is_blank(question.text):
        return "a question whose text is empty"
    if question.split not in (None, *(split for split, _ in _SPLITS)):
        return f"a question whose split is {one_line_of(question.split, most=60)!r}, not train or heldout"
    return ""


def source_file(environment: Environment) -> Path | None:
    """The file that the environment's class is written in; None where it has none."""
    file = getattr(sys.modules.get(type(environment).__module__), "__file__", None)
    return Path(file) if file else None


class Environment(ABC):
    """Base class of all environments: a seeded stream of tasks, the tools for each, and the verifier of an answer.

    A subclass defines `name`, `questions`, `tools` and `verify`, and `expert` where it knows how its tasks are solved. Where an
    episode is more than tools and an answer, as a game or a conversation is, it defines `open` instead of `tools`, and `score`
    instead of `verify`.
    """

    name: ClassVar[str]
    """Name of the environment in the store, in reports and in messages."""
    chapter: ClassVar[int] = 1024
    """Tasks of a split that are drawn one after the other. The next ones are drawn anew from a seed of their own: else the
    hundredth night would have to draw the tasks of ninety-nine nights to come to its own."""
    scored_at_once: ClassVar[int] = 1
    """Episodes that are scored at the same time, each in a thread: more than 1 where `score` waits, for a judge say."""
    generated: ClassVar[bool] = False
    """`questions` reads nothing outside, so that what was drawn for a seed need not be drawn again."""
    _patience: ClassVar[float] = _PATIENCE

    def tasks(self, split: Split, count: int, seed: int, skip: int = 0) -> list[Task]:
        """Return `count` tasks of the split for this seed, from the task number `skip` on.

        No question occurs twice in a chapter. Training tasks that are used up begin again: a later policy meets them anew; in
        a further chapter some may occur that occurred before. Raises TooFewTasks where the split has fewer tasks than that, and
        SettingError, in one line, for whatever is wrong with what `questions` yields.
        """
        chapter, skip = divmod(skip, self.chapter) if split == "train" else (0, skip)
        first = self._remembered if self.generated else self._drawn
        stream = first(skip + count, split, seed, chapter)
        needed = count if split == "train" else skip + count
        if len(stream) < needed:
            raise too_few(self.name, split, len(stream), needed)
        return [stream[index % len(stream)] for index in range(skip, skip + count)]

    def _drawn(self, count: int, split: Split, seed: int, chapter: int) -> list[Task]:
        """The first tasks of a stream, or all where it has fewer."""
        return list(islice(self.stream(split, seed, chapter), count))

    def _remembered(self, count: int, split: Split, seed: int, chapter: int) -> list[Task]:
        """The same. Each iteration asks for a few more of one stream: what was drawn of it is kept until the split is asked
        for another seed or chapter."""
        kept: dict[Split, Any] = self.__dict__.setdefault("_kept", {})
        which, drawn, stream = kept.pop(split, (None, [], iter(())))  # a stream that fails is not gone on with
        if which != (seed, chapter):
            drawn, stream = [], self.stream(split, seed, chapter)
        drawn.extend(islice(stream, max(0, count - len(drawn))))
        kept[split] = (seed, chapter), drawn, stream
        return drawn[:count]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def stream(self, split: Split, seed: int, chapter: int = 0) -> Iterator[Task]:
        """Yield the tasks of a split in the order that this seed gives, no question twice; the stream may be endless.

        Another `chapter` is another order. Raises SettingError, in one line, for whatever is wrong with what `questions`
        yields.
        """
        splits: dict[str, Split] = {}
        misses = 0
        seeds = f"{self.name}/{split}/{seed}" + (f"/{chapter}" if chapter else "")
        for question in self._asked(random.Random(seeds)):
            own = question.split or self.split_of(question.text)
            known = question.text in splits
            if splits.setdefault(question.text, own) != own:
                about = one_line_of(question.text, most=60)
                raise SettingError(f"environment: {self.name}: the question {about!r} is in two splits")
            if known or own != split:
                misses += 1
                if misses >= self._patience:
                    return
                continue
            misses = 0
            yield self._named(Task(self.name, question.family, question.text, question.answer, split, question.payload))

    def _asked(self, rng: random.Random) -> Iterator[Question]:
        """What `questions` yields, which is the user's code. Raises SettingError where it fails or yields anything else."""
        questions = None
        while True:
            try:
                questions = iter(self.questions(rng)) if questions is None else questions
                question = next(questions)
            except StopIteration:
                return
            except AgentloopError:
                raise
            except (Exception, SystemExit) as error:
                where = line_in(error, source_file(self))
                raise SettingError(f"environment: {self.name}: questions(){where}: {one_line(error)}") from error
            fault = _fault(question)
            if fault:
                raise SettingError(f"environment: {self.name}: questions() yields {fault}")
            yield question

    def _named(self, task: Task) -> Task:
        """The task, which has a name. Raises SettingError where its text or payload is nothing that can be stored."""
        try:
            _ = task.id, f"{task.answer}{task.family}".encode()
        except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as error:
            reason = "half of a surrogate pair" if isinstance(error, UnicodeEncodeError) else one_line_of(error)
            about = one_line_of(task.question, most=60)
            raise SettingError(f"environment: {self.name}: the question {about!r} cannot be stored: {reason}") from None
        return task

    def split_of(self, question: str) -> Split:
        """Return the split of a question that names none, by the hash of its text: one in five is held out."""
        return "heldout" if split_of(question) == "heldout" else "train"

    @abstractmethod
    def questions(self, rng: random.Random) -> Iterator[Question]:
        """Yield questions of every split, in an order that `rng` alone decides; the stream may be endless."""

    @classmethod
    def lacks(cls) -> list[str]:
        """Return the names of what a subclass must define and this one does not, sorted."""
        missing = set(cls.__abstractmethods__)
        if not getattr(cls, "name", None):
            missing.add("name")
        if cls.tools is Environment.tools and cls.open is Environment.open:
            missing.add("tools")
        if cls.verify is Environment.verify and cls.score is Environment.score:
            missing.add("verify")
        return sorted(missing)

    @property
    def plain(self) -> bool:
        """Return True where an episode is tools and an answer, and nothing else needs to be asked of its world."""
        return type(self).open is Environment.open

    def tools(self, task: Task) -> dict[str, Tool]:
        """Return fresh tools for one episode on `task`, by name. They may hold state; their process is the episode's own.

        By default there are none.
        """
        return {}

    def open(self, task: Task) -> Session:
        """Return a fresh session for one episode on `task`: its tools, what it says back, and its outcome.

        By default a session of nothing but `tools(task)`. It is opened in a process of the episode's own.
        """
        return Session(self.tools(task))

    def verify(self, task: Task, answer: str | None) -> float:
        """Return 1.0 for a right answer, 0.0 for a wrong one, or a number between for one that is partly right.

        `answer` is the model's final answer as parsed. The default `score` does not ask about an episode without one.
        """
        raise NotImplementedError

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Return the scores of a finished episode by name, each from 0 to 1; `success` must be among them.

        `answer` is the final answer as parsed, None where there is none. `outcome` is what the session's `outcome()` returned,
        as JSON; None where it has none. An episode with a `success` of at least 0.5 (agentloop.records.SOLVED) counts as
        solved. By default `success` is what `verify` says of the answer, and 0 without one. It must depend on its arguments
        alone: stored episodes are scored again without being played.
        """
        return {"success": 0.0 if answer is None else self.verify(task, answer)}

    def expert(self, task: Task) -> Sequence[str] | None:
        """Return what an expert says, turn by turn: calls as the model writes them and turns to the session, then the answer.

        None, the default, where there is no expert. `agentloop teach` plays the turns in an episode of its own, and teaches
        those that `verify` accepts.
        """
        return None


class ScriptedEnvironment(Environment):
    """An environment that makes up its questions and knows how they are solved: the tiny model is first taught on such.

    A subclass defines `name`, `draw`, `tools`, `verify`, `expert` and `demonstration`.
    """

    def split_of(self, question: str) -> Split:
        """Return the split of a question by the hash of its text: two in five demonstrate, two train, one is held out."""
        return split_of(question)

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            yield self.draw(rng)

    @abstractmethod
    def draw(self, rng: random.Random) -> Question:
        """Return one question of any family and any split, by `rng` alone."""

    @abstractmethod
    def expert(self, task: Task) -> tuple[str, ...]:
        """Return the turns that solve the task: calls as the model writes them, then the answer."""

    @abstractmethod
    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        """Return a scripted episode that is right, wrong by a bad habit or noisy, in the shares that the warm start needs."""
