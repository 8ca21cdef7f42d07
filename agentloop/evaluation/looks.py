"""Looks: on how many tasks the gate may look at the results of one challenger.

The evidence is an e-process (agentloop/evaluation/betting.py): its bound holds at all times at once. So another look costs
episodes and no level.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    number: int
    """From 1."""
    of: int
    """Looks that there may be."""

    @property
    def scale(self) -> int:
        """Return how many times as many tasks it has as the first look."""
        return 2 ** (self.number - 1)

    @property
    def last(self) -> bool:
        return self.number == self.of


def plan(count: int) -> tuple[Look, ...]:
    return tuple(Look(number, count) for number in range(1, count + 1))


def most(tasks: int, limit: int | None) -> int:
    """Return how many looks there may be: `tasks` at the first, twice as many at each further one, no more than `limit`."""
    return 1 if limit is None else max(1, (limit // tasks).bit_length())
