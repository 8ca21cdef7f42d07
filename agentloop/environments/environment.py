"""What an environment is: a seeded stream of tasks, their tools, their verifier and scripted demonstrations.

The split of a task is decided by the hash of its question alone. Whatever the seed, the order or the number of tasks
asked for, no question can be in two splits.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agentloop.errors import SettingError
from agentloop.records import Split, Task
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

        Raises SettingError if the environment does not have so many.
        """
        stream = self._stream(split, seed)
        tasks = []
        for index, task in enumerate(stream):
            if index >= skip + count:
                break
            if index >= skip:
                tasks.append(task)
        if len(tasks) < count:
            raise SettingError(f"environment: {self.name} has fewer than the {skip + count} {split} tasks asked for")
        return tasks

    def _stream(self, split: Split, seed: int) -> Iterator[Task]:
        rng = random.Random(f"{self.name}/{split}/{seed}")
        seen: set[str] = set()
        misses = 0
        while misses < _PATIENCE:
            question = self.draw(rng)
            if question.text in seen or split_of(question.text) != split:
                misses += 1
                continue
            seen.add(question.text)
            misses = 0
            yield Task(self.name, question.family, question.text, question.answer, split, question.payload)

    @abstractmethod
    def draw(self, rng: random.Random) -> Question:
        """A question of any family and any split."""

    @abstractmethod
    def tools(self, task: Task) -> dict[str, Tool]:
        """Fresh tools for one episode, by name."""

    @abstractmethod
    def verify(self, task: Task, answer: str | None) -> float:
        """1.0 for a right answer, else 0.0."""

    @abstractmethod
    def demonstration(self, task: Task, rng: random.Random) -> Demonstration:
        """A scripted episode: right, by bad habit or noisy, in the proportions that the warm start needs."""
