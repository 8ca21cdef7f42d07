"""What an environment is: a seeded stream of tasks, their tools and their verifier.

Unless its source says otherwise, the split of a task is decided by the hash of its question alone. Whatever the seed,
the order or the number of tasks asked for, no question can be in two splits.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

from agentloop.errors import SettingError
from agentloop.records import Split, Task
from agentloop.text import one_line_of
from agentloop.tools import Tool

_BUCKETS = 20
_SPLITS: tuple[tuple[Split, range], ...] = (
    ("demonstration", range(0, 8)),
    ("train", range(8, 16)),
    ("heldout", range(16, 20)),
)
"""Which of the hash's buckets belong to which split."""

_PATIENCE = 10_000
"""Draws without a new question after which a stream is held to be exhausted."""


@dataclass(frozen=True)
class Question:
    """A task before its split is known."""

    family: str
    text: str
    answer: str
    payload: dict[str, Any]
    split: Split | None = None
    """Where its source has splits of its own; None: decided by the hash of the text."""


@dataclass(frozen=True)
class Demonstration:
    """A scripted episode: what the model is to say, turn by turn, for the warm start of the tiny model."""

    task: Task
    kind: Literal["right", "habit", "noise"]
    """`right` ends in the right answer, `habit` in a wrong one by the family's own bad habit, `noise` in any."""
    turns: tuple[str, ...]
    """Calls, then the answer."""


def split_of(question: str) -> Split:
    bucket = int.from_bytes(hashlib.sha256(question.encode()).digest()[:8], "big") % _BUCKETS
    return next(split for split, buckets in _SPLITS if bucket in buckets)


class Environment(ABC):
    name: ClassVar[str]

    def tasks(self, split: Split, count: int, seed: int, skip: int = 0) -> list[Task]:
        """Tasks `skip` .. `skip + count` of the split's stream for this seed; no question occurs twice in a stream.

        Training tasks that are used up begin again: a later policy meets them anew. Raises SettingError where the
        split has fewer than `count`.
        """
        stream = list(islice(self._stream(split, seed), skip + count))
        needed = count if split == "train" else skip + count
        if len(stream) < needed:
            raise SettingError(
                f"environment: {self.name} has {len(stream)} {split} tasks, fewer than the {needed} asked for"
            )
        return [stream[index % len(stream)] for index in range(skip, skip + count)]

    def _stream(self, split: Split, seed: int) -> Iterator[Task]:
        seen: set[str] = set()
        misses = 0
        for question in self.questions(random.Random(f"{self.name}/{split}/{seed}")):
            if question.text in seen or (question.split or self.split_of(question.text)) != split:
                misses += 1
                if misses >= _PATIENCE:
                    return
                continue
            seen.add(question.text)
            misses = 0
            yield self._named(Task(self.name, question.family, question.text, question.answer, split, question.payload))

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
        """Four fifths are trained on."""
        return "heldout" if split_of(question) == "heldout" else "train"

    @abstractmethod
    def questions(self, rng: random.Random) -> Iterator[Question]:
        """Questions of every split, in an order that `rng` decides; endless or not."""

    @abstractmethod
    def tools(self, task: Task) -> dict[str, Tool]:
        """Fresh tools for one episode, by name."""

    @abstractmethod
    def verify(self, task: Task, answer: str | None) -> float:
        """1.0 for a right answer, else 0.0."""


class ScriptedEnvironment(Environment):
    """One that makes up its questions and knows how they are solved: what the tiny model is first taught on."""

    def split_of(self, question: str) -> Split:
        return split_of(question)

    def questions(self, rng: random.Random) -> Iterator[Question]:
        while True:
            yield self.draw(rng)

    @abstractmethod
    def draw(self, rng: random.Random) -> Question:
        """A question of any family and any split."""

    @abstractmethod
    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        """A scripted episode: right, by bad habit or noisy, in the proportions that the warm start needs."""
