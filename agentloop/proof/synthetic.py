"""Rows that look like an agent's to the trainer: random ids, with lengths and supervised runs as episodes have them."""

from __future__ import annotations

import math
import random

_SHORTEST = 32
"""Tokens of a row."""
_TURN = 32
"""Tokens in a run of supervised ones, as a model's turn has them."""
_SPREAD = 0.6
"""Sigma of the log-normal length of a row."""


def row_length(rng: random.Random, median: float) -> int:
    """Log-normal, as the lengths of an agent's episodes are."""
    return max(_SHORTEST, round(rng.lognormvariate(math.log(median), _SPREAD)))


def row(rng: random.Random, length: int, supervised: float, vocabulary: int) -> tuple[list[int], list[bool]]:
    """(token ids, mask): random ids; the supervised tokens come in runs of 32, as a model's turns do."""
    mask: list[bool] = []
    while len(mask) < length:
        mask += [rng.random() < supervised] * _TURN
    return [rng.randrange(5, vocabulary) for _ in range(length)], mask[:length]
