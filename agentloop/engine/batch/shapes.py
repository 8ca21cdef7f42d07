"""The sizes that steps are padded to, so that few CUDA graphs serve many batches.

A graph is recorded for one size, which costs about as much as two steps; padding costs time in every step. Where the batches
of a run are known, one to four sizes are made to measure; where they are not, sizes are rounded up to an eighth of a power
of two. Either way a batch's size depends on the run's batches alone, not on what came before: a run that continues computes
what the undisturbed one computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate

from agentloop.engine.batch import PackedBatch
from agentloop.model_directory.architecture import Architecture

SKIP_BELOW = 0.9
"""Skip when at most this share of the tokens is supervised; gathering rows costs a little too."""
STEP = 256
"""Sizes are multiples of this where the batches are not known."""
KNOWN_STEP = 128
"""And of this where they are: a tile of the largest matrix products."""
SEGMENT_STEP = 16
MOST = 4
"""Sizes made to measure for one run."""
RECORDING = 2.5
"""Steps that take as long as recording one more size does."""


@dataclass(frozen=True)
class StepShape:
    """Sizes of everything in a step."""

    tokens: int
    rows: int
    """Supervised tokens."""
    segments: int
    """Sequences, and one: entries of cu_seqlens."""
    longest: int
    """No sequence is longer, nor are the tokens that fill up the batch."""
    skip: bool
    """Carry only supervised rows above the boundary."""

    def covers(self, other: StepShape) -> bool:
        """Return True where a batch of the `other` shape can be padded to this one."""
        return (
            self.skip == other.skip
            and self.tokens >= other.tokens
            and self.rows >= other.rows
            and self.segments >= other.segments
            and self.longest >= max(other.longest, self.tokens - other.tokens)
        )


def exact(batch: PackedBatch, skip: bool | None = None) -> StepShape:
    """The batch without padding. `skip` forces upper-layer skipping on or off; None decides by the supervised share."""
    rows = batch.supervised
    skip = rows <= SKIP_BELOW * batch.tokens if skip is None else skip
    return StepShape(batch.tokens, rows, batch.cu_seqlens.numel(), batch.max_seqlen, skip)


def rounded(shape: StepShape) -> StepShape:
    """The size of a batch of which nothing was known before."""
    tokens, rows = _up(shape.tokens, _eighth(shape.tokens)), _up(shape.rows, _eighth(shape.rows))
    longest = _power(max(shape.longest, tokens - shape.tokens, STEP))
    return replace(
        shape,
        tokens=tokens,
        rows=rows,
        segments=_power(max(shape.segments, SEGMENT_STEP)),
        longest=min(longest, tokens),
    )


class KnownShapes:
    """At most four sizes for the batches of a run, chosen so that padding and recording together cost least."""

    def __init__(self, model: Architecture, batches: Iterable[PackedBatch] = ()) -> None:
        attention = 2 * (model.heads + model.kv_heads) * model.head_dim
        layers = [model.hidden * (3 * width + attention) for width in model.intermediate]
        self._below, self._above = sum(layers[: model.boundary]), sum(layers[model.boundary :])
        self._head = model.hidden * model.vocab
        self.shapes: list[StepShape] = []
        found = [exact(batch) for batch in batches if batch.supervised]
        for skip in (True, False):
            self.shapes += self._chosen([shape for shape in found if shape.skip is skip])

    def covering(self, shape: StepShape) -> StepShape | None:
        """The cheapest size that a batch of this shape can be padded to; None where there is none that is worth it."""
        fitting = [known for known in self.shapes if known.covers(shape)]
        best = min(fitting, key=self._cost, default=None)
        # Of a batch that was not among those of the run.
        return None if best is None or self._cost(best) > 2 * self._cost(rounded(shape)) else best

    def _chosen(self, found: list[StepShape]) -> list[StepShape]:
        """One size for all, then again and again the cut that saves most, while it saves more than a recording costs."""
        if not found:
            return []
        groups = [found]
        price = RECORDING * sum(map(self._cost, found)) / len(found)
        while len(groups) < MOST:
            cuts = [self._cut(group) for group in groups]
            saved, parts = max(cuts, key=lambda cut: cut[0])
            if saved <= price:
                break
            groups[cuts.index((saved, parts))] = parts[0]
            groups.append(parts[1])
        return [_common(group) for group in groups]

    def _cut(self, group: list[StepShape]) -> tuple[float, list[list[StepShape]]]:
        """What the best cut in two saves, and its parts: the shapes up to some number of tokens, rows or cost, and the rest."""
        whole = len(group) * self._cost(_common(group))
        best: tuple[float, list[list[StepShape]]] = (0.0, [])
        for key in (lambda shape: shape.tokens, lambda shape: shape.rows, self._cost):
            ordered = sorted(group, key=key)
            lower = list(accumulate(map(_padded, ordered), _larger))
            upper = list(accumulate(map(_padded, reversed(ordered)), _larger))
            for count in range(1, len(ordered)):
                others = len(ordered) - count
                saved = whole - count * self._cost(lower[count - 1]) - others * self._cost(upper[others - 1])
                if saved > best[0]:
                    best = saved, [ordered[:count], ordered[count:]]
        return best

    def _cost(self, shape: StepShape) -> float:
        """Multiplications of a step, but for a factor: what time is roughly proportional to."""
        upper = shape.rows if shape.skip else shape.tokens
        return shape.tokens * self._below + upper * self._above + shape.rows * self._head


def _common(shapes: Sequence[StepShape]) -> StepShape:
    """The least size that covers them all."""
    common = reduce(_larger, map(_padded, shapes))
    filling = common.tokens - min(shape.tokens for shape in shapes)
    return replace(common, longest=max(common.longest, _up(filling, KNOWN_STEP)))


def _padded(shape: StepShape) -> StepShape:
    tokens, rows, longest = (_up(size, KNOWN_STEP) for size in (shape.tokens, shape.rows, shape.longest))
    return replace(shape, tokens=tokens, rows=rows, longest=longest, segments=_up(shape.segments, SEGMENT_STEP))


def _larger(one: StepShape, other: StepShape) -> StepShape:
    """The larger of the two in each size."""
    return StepShape(
        max(one.tokens, other.tokens),
        max(one.rows, other.rows),
        max(one.segments, other.segments),
        max(one.longest, other.longest),
        one.skip,
    )


def _eighth(size: int) -> int:
    return max(STEP, (1 << max(size, 1).bit_length() - 1) // 8)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
