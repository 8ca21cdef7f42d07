"""Demonstrations that no environment can judge: they are taught as they stand, because the user said so."""

from __future__ import annotations

import random
from collections.abc import Iterator

from agentloop.environments.environment import Environment, Question
from agentloop.records import Task
from agentloop.tools import Tool

UNVERIFIED = "unverified"


class Unverified(Environment):
    """It has no questions of its own, and takes every answer for right."""

    name = UNVERIFIED

    def questions(self, rng: random.Random) -> Iterator[Question]:
        yield from ()

    def tools(self, task: Task) -> dict[str, Tool]:
        return {}

    def verify(self, task: Task, answer: str | None) -> float:
        return float(answer is not None)
