"""What a process has open, found again by what it was opened from.

The tasks of a flow take data: settings, a shard's plan, names. In the flow's own process they work with what the flow has
open; in any other one, what is needed is opened there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class AtHand(Generic[T]):
    """Things of one kind, by a key that says what each was opened from. Each process has its own."""

    def __init__(self) -> None:
        self._held: dict[Hashable, list[T]] = {}
        """The newest of each last. Blocks that hold a thing under one key may overlap, and end in any order."""

    def get(self, key: Hashable) -> T | None:
        """Return what is held under the key, the newest of several, or None."""
        held = self._held.get(key)
        return held[-1] if held else None

    def keep(self, key: Hashable, thing: T) -> T:
        """Hold the thing until the process ends, and return it."""
        self._held.setdefault(key, []).append(thing)
        return thing

    @contextmanager
    def holding(self, key: Hashable, thing: T) -> Iterator[T]:
        """Hold the thing for the block."""
        held = self._held.setdefault(key, [])
        held.append(thing)
        try:
            yield thing
        finally:
            held[:] = [other for other in held if other is not thing]
