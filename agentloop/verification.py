"""What an episode is worth, whoever says so: scores from 0 to 1 by name, or one line about what went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentloop.errors import StoreError
from agentloop.records import Task
from agentloop.text import one_line, one_line_of

_SHOWN = 80
"""Characters of an answer in an error."""
SUCCESS = "success"
"""The score that every environment gives."""

Verify = Callable[[Task, str], float]
"""(task, answer as parsed) -> 1.0 for right, 0.0 for wrong, between for partly right. Pure."""


class Scoring(Protocol):
    """Whatever scores a finished episode, as an environment does. Pure."""

    def score(self, task: Task, answer: str | None, outcome: Any) -> Mapping[str, float]:
        """Return the scores by name; `answer` and `outcome` are None where the episode has none."""


def verified(verify: Verify, task: Task, answer: str, *, who: str) -> float:
    """Return what a verifier says of an answer, 0 to 1. Raises StoreError, in one line that names `who` and the task, where it
    fails or says anything else.
    """
    about = _about(task, answer)
    try:
        value = verify(task, answer)
    except (Exception, SystemExit) as error:
        raise StoreError(f"{who}: {one_line(error)} at {about}") from error
    return _number(value, who, about)


def scored(by: Scoring | Verify, task: Task, answer: str | None, outcome: Any, *, who: str) -> dict[str, float]:
    """Return the scores of an episode by name, each from 0 to 1, `success` among them.

    `by`: an environment, or a function that verifies an answer, which gives `success` and is not asked without one. Raises
    StoreError, in one line that names `who` and the task, where it fails or says anything else.
    """
    score = getattr(by, "score", None)
    if score is None:
        return {SUCCESS: 0.0 if answer is None else verified(by, task, answer, who=who)}  # type: ignore[arg-type]
    about = _about(task, answer)
    try:
        values = score(task, answer, outcome)
    except (Exception, SystemExit) as error:
        raise StoreError(f"{who}: {one_line(error)} at {about}") from error
    if not isinstance(values, Mapping):
        raise StoreError(f"{who}: says {one_line_of(values)} of {about}, which is no mapping of scores")
    if SUCCESS not in values:
        raise StoreError(f"{who}: gives {about} no score named {SUCCESS}")
    for name in values:
        if not isinstance(name, str) or not name.isidentifier():
            raise StoreError(f"{who}: {one_line_of(name, most=60)!r} is no name of a score, which is a word")
    return {
        name: _number(value, who, about if name == SUCCESS else f"{name} of {about}") for name, value in values.items()
    }


def _about(task: Task, answer: str | None) -> str:
    return f"an episode without an answer to {task.id}" if answer is None else f"{answer[:_SHOWN]!r} to {task.id}"


def _number(value: Any, who: str, about: str) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except Exception:  # an object of somebody else's, a tensor of two numbers for one
        number = math.nan
    if not 0 <= number <= 1:
        raise StoreError(f"{who}: says {one_line_of(value)} of {about}, which is no number from 0 to 1")
    return number
