"""Is what vLLM serves what was trained? Served log probabilities of fixed prompts against the trainer's own forward.

Two right implementations differ by rounding, so base and adapter may each be off by a tolerance, in nats per token, that
follows from the trainer's own rounding. An adapter that moves the model by less than that would pass when it is not
applied at all; therefore its effect is looked at by itself as well: over a few hundred tokens rounding averages out, and
what is left says how much of the effect is served. Each fault moves the log probabilities to a recognisable place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentloop.serving.client import CompletionClient

Rows = Sequence[Sequence[float]]
"""For each prompt the log probability of each token given those before it. [prompts][tokens - 1]"""

FLOOR = 1e-3
"""Tolerance where both sides compute in fp32: the order of their sums explains some 1e-4."""
FACTOR = 2.5
"""Of the trainer's own rounding: its error, and as much again and a half for that of the server."""
_MISSING = 0.25
"""Share of the effect that may be lacking or too much."""
_SAME_DIRECTION = 0.5
"""Cosine between the effect that is served and the adapter's own, from which on it is this adapter, in part."""


@dataclass(frozen=True)
class Expected:
    """The trainer's log probabilities of the prompts."""

    base: Rows
    adapter: Rows
    rounding: Rows
    """What 16-bit arithmetic adds to `base`; signed."""
    exact: bool
    """Trained in fp32 and served in fp32: rounding plays no part."""

    @property
    def tolerance(self) -> float:
        """Nats per token, in the mean."""
        return FLOOR if self.exact else max(FLOOR, FACTOR * float(np.abs(_flat(self.rounding)).mean()))

    @property
    def noise(self) -> float:
        """Mean square of what rounding adds to one log probability."""
        least = (FLOOR / 10) ** 2
        return least if self.exact else max(least, float((_flat(self.rounding) ** 2).mean()))


@dataclass(frozen=True)
class CanaryReport:
    """Absolute differences between served and trained, in nats per token, and what they mean."""

    base_mean: float
    base_max: float
    adapter_mean: float
    adapter_max: float
    effect_mean: float
    """How far the adapter moves the trainer's own log probabilities."""
    share: float | None
    """How much of that effect is served: 1 for all; somewhat less where rounding blurs it. None where it drowns in rounding."""
    tokens: int
    tolerance: float
    fault: str | None
    """In one line; None where base and adapter are served as they were trained."""

    @property
    def passed(self) -> bool:
        return self.fault is None


async def ask(client: CompletionClient, model: str, prompts: Sequence[Sequence[int]]) -> Rows:
    """Return the log probabilities of what is served under this name."""
    return [await client.prompt_logprobs(model, ids) for ids in prompts]


def compare(
    *, served_base: Rows, served_adapter: Rows, expected: Expected, others: Mapping[str, Rows] = {}
) -> CanaryReport:
    """Measure and judge. `others`: log probabilities under other adapters, by name, among which a stale one is recognised.

    Raises ValueError where prompts or tokens do not match.
    """
    base, adapter = _flat(expected.base), _flat(expected.adapter)
    served, without = _flat(served_adapter), _flat(served_base)
    tolerance = expected.tolerance
    base_gap, adapter_gap = np.abs(without - base), np.abs(served - adapter)
    lowest, highest = _share(served - without, adapter - base, expected.noise)
    base_mean, adapter_mean = float(base_gap.mean()), float(adapter_gap.mean())
    complete = highest is None or (highest >= 1 - _MISSING and lowest <= 1 + _MISSING)
    if not base_mean <= tolerance:  # also where something is not a number
        fault = (
            f"another base: without the adapter, served and trained differ by {base_mean:.2g} nats per token "
            f"(tolerance {tolerance:.2g})"
        )
    elif not adapter_mean <= tolerance or not complete:
        gap = f"served and trained differ by {adapter_mean:.2g} nats per token (tolerance {tolerance:.2g})"
        stale = [
            name for name, rows in others.items() if _distance(served, _flat(rows)) <= min(tolerance, adapter_mean)
        ]
        fault = f"{_diagnosis(served - without, adapter - base, tolerance, stale)}; {gap}"
    else:
        fault = None
    return CanaryReport(
        base_mean=base_mean,
        base_max=float(base_gap.max()),
        adapter_mean=adapter_mean,
        adapter_max=float(adapter_gap.max()),
        effect_mean=_distance(adapter, base),
        share=None if highest is None else lowest,
        tokens=base_gap.size,
        tolerance=tolerance,
        fault=fault,
    )


def _share(moved: np.ndarray, effect: np.ndarray, noise: float) -> tuple[float, float | None]:
    """Bounds of `moved` as a multiple of `effect`, both [tokens]; no upper one where most of `effect` may be rounding.

    `effect` holds rounding of its own (mean square `noise` in each of its two terms, unless they round alike), which
    makes the plain regression's slope too small; taking it out in full makes it too large.
    """
    projection, power = float(moved @ effect), float(effect @ effect)
    signal = power - 2 * noise * effect.size
    if not signal > power / 2:
        return 0.0, None
    return projection / power, projection / signal


def _diagnosis(moved: np.ndarray, effect: np.ndarray, tolerance: float, stale: Sequence[str]) -> str:
    """What is served in the adapter's place: `moved` from the base, where `effect` was expected."""
    share = float(moved @ effect) / (float(effect @ effect) or 1.0)
    if float(np.abs(moved).mean()) <= tolerance and not share >= 0.5:
        return "adapter not applied: the base answers in its place"
    if stale:
        return f"stale adapter: {stale[0]} is served under this name"
    cosine = float(moved @ effect) / (math.sqrt(float(moved @ moved) * float(effect @ effect)) or 1.0)
    if cosine >= _SAME_DIRECTION:
        return f"adapter applied in part: {share:.0%} of its effect is served"
    return f"stale adapter: what is served has little in common with what was trained (cosine {cosine:.2f})"


def _flat(rows: Rows) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    """Mean absolute difference."""
    return float(np.abs(left - right).mean())
