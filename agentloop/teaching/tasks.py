"""Which tasks are demonstrated: those of the demonstration split where there is one, else training tasks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import islice

from agentloop.environments import Environment
from agentloop.errors import SettingError
from agentloop.records import Task

_PATIENCE = 2_000
"""Tasks in a row, none of a wanted family, after which there are held to be no more."""


def drawn(environment: Environment, count: int, seed: int, families: Collection[str] = ()) -> list[Task]:
    """`count` tasks, of these families alone where some are named, or as many as there are; never held-out ones.

    Raises SettingError where there is none, or a family is not among the environment's.
    """
    split = "demonstration" if next(environment.stream("demonstration", seed), None) else "train"
    stream = environment.stream(split, seed)
    tasks = list(_of(stream, count, families) if families else islice(stream, count))
    if not tasks:
        raise SettingError(f"environment: {environment.name} has no tasks to demonstrate")
    return tasks


def _of(stream: Iterator[Task], count: int, families: Collection[str]) -> Iterator[Task]:
    """Tasks of these families alone, in equal parts."""
    left = dict.fromkeys(families, math.ceil(count / len(set(families))))
    seen: set[str] = set()
    misses = 0
    for task in stream:
        seen.add(task.family)
        if left.get(task.family):
            left[task.family] -= 1
            misses = 0
            yield task
        else:
            misses += 1
        if misses >= _PATIENCE or not any(left.values()):
            break
    if unknown := sorted(left.keys() - seen):
        raise SettingError(
            f"--family: there are no tasks of a family {unknown[0]!r} (there are: {', '.join(sorted(seen)) or 'none'})"
        )
