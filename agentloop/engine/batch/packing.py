"""Which sequences share a packed batch: few batches, each as full as the others, each with as much to train on.

A step costs what the fullest batch costs, because all are padded to one size (shapes.py): so what counts is the number of
batches times the fullest one. Long and short sequences are mixed, and the given order decides wherever lengths are close.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

SPREAD = (math.inf, 4, 2)
"""Ways to deal: sequences longer than the budget over this go to the emptiest batch, the others to the fullest with room."""
WORTH = 1.02
"""A way that leaves the batches less even must save so much."""
ATTEMPTS = 3
NEAR = 1.01
"""Times the mean: with no more to train on a batch is left as it is."""
EXCHANGES = 1000
PARTNERS = 64
"""Batches that are asked for an exchange, before one with too much to train on is left as it is."""


def deal(lengths: Sequence[int], supervised: Sequence[int], budget: int) -> list[list[int]]:
    """Return for each batch the indices of its sequences, ascending. No length may exceed `budget`.

    `supervised`: tokens to be trained on, for each sequence.
    """
    if not lengths:
        return []

    def cost(batches: list[list[int]]) -> int:
        return len(batches) * max(_total(lengths, batch) for batch in batches)

    batches, *others = [_evened(lengths, budget, spread) for spread in SPREAD]
    for other in others:
        batches = other if cost(other) * WORTH < cost(batches) else batches
    return [sorted(batch) for batch in _exchanged(batches, np.array(lengths), np.array(supervised))]


def _evened(lengths: Sequence[int], budget: int, spread: float) -> list[list[int]]:
    """A batch that had to be opened late is nearly empty: then all are dealt again, among so many."""
    count = -(-sum(lengths) // budget)
    for _ in range(ATTEMPTS):
        batches = _dealt(lengths, budget, spread, count)
        if len(batches) == count:
            break
        count = len(batches)
    return batches


def _dealt(lengths: Sequence[int], budget: int, spread: float, count: int) -> list[list[int]]:
    batches: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, batch) for batch in range(count)]
    # From long to short, by half powers of two: a gap that is left is as small as the last sequences are.
    for index in sorted(range(len(lengths)), key=lambda index: -math.floor(2 * math.log2(lengths[index]))):
        length = lengths[index]
        fullest = bisect_left(loads, (budget - length + 1,)) - 1
        if fullest < 0:
            batches.append([])
            load, batch = 0, len(batches) - 1
        else:
            load, batch = loads.pop(0 if length * spread > budget else fullest)
        batches[batch].append(index)
        insort(loads, (load + length, batch))
    return batches


def _exchanged(batches: list[list[int]], lengths: np.ndarray, supervised: np.ndarray) -> list[list[int]]:
    """The batches after exchanges of one sequence for another, from the one with most to train on to those with least,
    while that makes the larger of the two smaller and none fuller than the fullest."""
    batches = [list(batch) for batch in batches]
    loads = np.array([lengths[batch].sum() for batch in batches])
    rows = np.array([supervised[batch].sum() for batch in batches])
    room = loads.max()
    stuck = np.zeros(len(batches), dtype=bool)
    for _ in range(EXCHANGES):
        most = int(np.where(stuck, -1, rows).argmax())
        if stuck[most] or rows[most] <= NEAR * rows.mean():
            break
        for least in map(int, np.argsort(rows, kind="stable")[:PARTNERS]):
            gap = rows[most] - rows[least]
            given = supervised[batches[most]][:, None] - supervised[batches[least]][None, :]
            longer = lengths[batches[most]][:, None] - lengths[batches[least]][None, :]
            fits = (loads[most] - longer <= room) & (loads[least] + longer <= room) & (given > 0) & (given < gap)
            if not fits.any():
                continue
            mine, theirs = np.unravel_index(np.where(fits, abs(given - gap / 2), np.inf).argmin(), given.shape)
            loads[most] -= longer[mine, theirs]
            loads[least] += longer[mine, theirs]
            rows[most] -= given[mine, theirs]
            rows[least] += given[mine, theirs]
            batches[most][mine], batches[least][theirs] = batches[least][theirs], batches[most][mine]
            break
        else:
            stuck[most] = True
    return batches


def _total(lengths: Sequence[int], batch: Sequence[int]) -> int:
    return sum(lengths[index] for index in batch)
