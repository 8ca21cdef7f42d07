"""The trainer's start, up to its first step: what took how long, in one line of its log."""

from __future__ import annotations

import sys
import time


class Start:
    """The parts of a start, each of which begins where the one before it ended."""

    def __init__(self) -> None:
        self._began = self._ended = time.monotonic()
        self._parts: list[str] = []
        self._told = False

    def reach(self, part: str) -> None:
        """Note that `part` has just ended."""
        now = time.monotonic()
        self._parts.append(f"{part} {now - self._ended:.1f} s")
        self._ended = now

    def finish(self, part: str) -> None:
        """Note that the last part has ended, and print `start: imports 2.1 s, check 0.4 s, …` to standard error. Does nothing
        where that has been done before.
        """
        if not self._told:
            self.reach(part)
            print(f"start: {', '.join(self._parts)}, {self._ended - self._began:.1f} s in all", file=sys.stderr)
            self._told = True
