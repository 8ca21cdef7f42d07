"""Verifiers in Python, registered by name: scores of an answer beside the success that its environment gives.

    from agentloop.curation.verifiers import register

    @register("short", version=2)
    def short(task: Task, answer: str) -> float:
        return float(len(answer) <= 10)

A file with such functions is given to `agentloop rescore` by its path. `closeness` is built in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentloop.errors import StoreError
from agentloop.records import Task
from agentloop.text import composed
from agentloop.trial import try_out
from agentloop.user_code import run_file
from agentloop.verification import Verify, verified


@dataclass(frozen=True)
class Verifier:
    name: str
    version: int
    """Raise it with any change of the function: stored trajectories are then scored again."""
    verify: Verify

    def __call__(self, task: Task, answer: str) -> float:
        """Raises StoreError, naming the verifier and the task, where the function fails or leaves 0 to 1."""
        return verified(self.verify, task, answer, who=f"verifier {self.name}")


_REGISTERED: dict[str, Verifier] = {}


def register(name: str, *, version: int = 1) -> Callable[[Verify], Verify]:
    """Make a function known by this name, instead of an earlier one of the same name."""

    def remember(verify: Verify) -> Verify:
        _REGISTERED[name] = Verifier(name, version, verify)
        return verify

    return remember


def names() -> list[str]:
    return sorted(_REGISTERED)


def get(name: str) -> Verifier | None:
    return _REGISTERED.get(name)


def from_file(path: Path, *, apart: bool = True) -> list[Verifier]:
    """The verifiers that a Python file registers. Raises StoreError, naming it, where it fails or registers none.

    `apart`: try the file in a process of its own before it is run in this one.
    """
    if apart and path.is_file():
        try_out(path, about="scorer", use="agentloop.curation.verifiers:use", error=StoreError)
    before = dict(_REGISTERED)
    run_file(path, about="scorer", error=StoreError)
    found = [verifier for name, verifier in _REGISTERED.items() if before.get(name) is not verifier]
    if not found:
        raise StoreError(f"scorer {path}: registers no verifier (agentloop.curation.verifiers.register)")
    return found


def use(path: Path, tell: Callable[[str], None]) -> None:
    """Import the file in a process of its own (see agentloop.trial). Raises StoreError, in one line."""
    from_file(path, apart=False)


@register("closeness")
def closeness(task: Task, answer: str) -> float:
    """A shaped reward for numbers: 1 where it is the expected one, less by its relative error, at least 0."""
    try:
        given, expected = float(answer), float(task.answer)
    except ValueError:
        return float(composed(answer.strip()) == composed(task.answer.strip()))
    if not math.isfinite(given) or not math.isfinite(expected):
        return 0.0
    return max(0.0, 1 - abs(given - expected) / max(abs(expected), 1.0))
