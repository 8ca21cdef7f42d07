"""A training step that ran out of the card's memory: what the trainer's process tells the one that started it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

PREFIX = "out of memory: "
"""Begins the line with which such a trainer ends."""
_SHORT = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""In errors of CUDA, of its libraries, and of torch on the CPU."""
_LEANER = 0.95
"""Of what was planned: less than that the next attempt plans at least."""
_SPARE = 0.995
"""Of what was to be had."""


@dataclass
class Shortage(Exception):
    """All in GiB of the card."""

    planned: float
    """The process was predicted to hold so much at its peak."""
    available: float
    """It could have held so much: what it held, and what was free."""

    def __str__(self) -> str:
        return PREFIX + json.dumps(asdict(self))

    @classmethod
    def parse(cls, line: str) -> Shortage:
        """Read what `str` wrote."""
        return cls(**json.loads(line.removeprefix(PREFIX)))

    @property
    def next_budget(self) -> float:
        """The memory that the next attempt may hold: less than this one, and no more than there was."""
        return min(_LEANER * self.planned, _SPARE * self.available)


def ran_out(error: BaseException) -> bool:
    """Return True where memory was short: torch says so, or a library that it called."""
    # by its name: who asks may be without torch
    own = any(each.__name__ == "OutOfMemoryError" for each in type(error).__mro__)
    return own or (isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT))
