"""Episodes that are told apart by a seed: which there are, in which order, and in which split."""

from __future__ import annotations

import random
from collections.abc import Iterator

_SEEDS = 2**31


def drawn(rng: random.Random, size: int | None) -> Iterator[int]:
    """Yield seeds in an order that `rng` decides, none twice: those from 0 to `size`, or without end where it is None."""
    if size is not None:
        yield from rng.sample(range(size), size)
        return
    seen: set[int] = set()
    while True:
        number = rng.randrange(_SEEDS)
        if number not in seen:
            seen.add(number)
            yield number
