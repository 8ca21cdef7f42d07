"""Looks: how often the gate may look at the results of one challenger, and on how many tasks.

Whoever looks again whenever the result is not clear yet finds a difference in the end, also where there is none. So the
looks are planned before the first, and each is a test at its equal share of the level: by Bonferroni's inequality all of
them together are wrong no more often than the level says, whatever decides that another one is taken.
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

    def share(self, alpha: float) -> float:
        """Return the share of a level that this look may spend."""
        return alpha / self.of


def plan(count: int) -> tuple[Look, ...]:
    return tuple(Look(number, count) for number in range(1, count + 1))


def most(tasks: int, limit: int | None) -> int:
    """Return how many looks there may be: `tasks` at the first, twice as many at each further one, no more than `limit`."""
    return 1 if limit is None else max(1, (limit // tasks).bit_length())
