"""What a process has open, found again by what it was opened from.

The tasks of a flow take data: settings, a shard's plan, names. In the flow's own process they work with what the flow has
open; in any other one, what is needed is opened there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class AtHand(Generic[T]):
    """Things of one kind, by a key that says what each was opened from. Each process has its own."""

    def __init__(self) -> None:
        self._held: dict[Hashable, list[T]] = {}
        """The newest of each last. Blocks that hold a thing under one key may overlap, and end in any order."""
        self._shared: dict[Hashable, _Share[T]] = {}
        self._lock = threading.RLock()

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
            del held[max(place for place, other in enumerate(held) if other is thing)]

    @contextmanager
    def sharing(self, key: Hashable, open_it: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Share the thing under the key for the block: `open_it` opens it for the first, and the last closes it."""
        with self._lock:
            share = self._shared.get(key)
            if share is None:
                closing = ExitStack()
                share = self._shared[key] = _Share(closing.enter_context(open_it()), closing)
            share.users += 1
        try:
            yield share.thing
        finally:
            with self._lock:
                share.users -= 1
                if not share.users:
                    del self._shared[key]
                    share.closing.close()


@dataclass
class _Share(Generic[T]):
    thing: T
    closing: ExitStack = field(repr=False)
    users: int = 0
