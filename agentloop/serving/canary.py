"""Is what vLLM serves what was trained? Served log probabilities of fixed prompts against the trainer's own forward.

The prompts' log probabilities are compared for the base and for the adapter, in nats per token. Where they differ, how
they differ tells what is wrong: each fault moves them to a recognisable place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentloop.errors import CanaryError
from agentloop.serving.client import CompletionClient

Rows = Sequence[Sequence[float]]
"""For each prompt the log probability of each token given those before it. [prompts][tokens - 1]"""
Reference = Callable[[Path | None, Sequence[int]], Sequence[float]]
"""The trainer's log probabilities of a prompt under the adapter in a directory, or under the base for None."""

_SAME_DIRECTION = 0.5
"""Cosine between the effect that is served and the adapter's own, from which on it is this adapter, in part."""


@dataclass(frozen=True)
class CanaryReport:
    """Absolute differences between served and trained, in nats per token."""

    base_mean: float
    base_max: float
    adapter_mean: float
    adapter_max: float
    effect_mean: float
    """How far the adapter moves the trainer's own log probabilities. Far below the tolerance, nothing can be told."""
    tokens: int
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.base_mean <= self.tolerance and self.adapter_mean <= self.tolerance


async def check(
    client: CompletionClient,
    *,
    base_name: str,
    adapter_name: str,
    directory: Path,
    prompts: Sequence[Sequence[int]],
    reference: Reference,
    tolerance: float,
    earlier: Sequence[Path] = (),
) -> CanaryReport:
    """Ask `client` and `reference` about every prompt and compare. `earlier`: adapters that may still be served instead."""
    served_base = [await client.prompt_logprobs(base_name, ids) for ids in prompts]
    served_adapter = [await client.prompt_logprobs(adapter_name, ids) for ids in prompts]
    base = [reference(None, ids) for ids in prompts]
    adapter = [reference(directory, ids) for ids in prompts]
    report = measure(
        served_base=served_base, served_adapter=served_adapter, base=base, adapter=adapter, tolerance=tolerance
    )
    others = {} if report.passed else {path.name: [reference(path, ids) for ids in prompts] for path in earlier}
    return compare(
        served_base=served_base,
        served_adapter=served_adapter,
        base=base,
        adapter=adapter,
        tolerance=tolerance,
        earlier=others,
    )


def compare(
    *,
    served_base: Rows,
    served_adapter: Rows,
    base: Rows,
    adapter: Rows,
    tolerance: float,
    earlier: Mapping[str, Rows] = {},
) -> CanaryReport:
    """The report where base and adapter are served as trained, within `tolerance` nats per token in the mean.

    Raises CanaryError, in one line that says which fault it looks like, where they are not. `earlier`: the trainer's log
    probabilities of the same prompts under other adapters, by name, among which a stale one is recognised.
    """
    report = measure(
        served_base=served_base, served_adapter=served_adapter, base=base, adapter=adapter, tolerance=tolerance
    )
    if report.passed:
        return report
    if not report.base_mean <= tolerance:
        raise CanaryError(
            f"another base: without the adapter, served and trained differ by {report.base_mean:.2g} nats per "
            f"token (tolerance {tolerance:g})"
        )
    served, expected, without = _flat(served_adapter), _flat(adapter), _flat(base)
    gap = f"served and trained differ by {report.adapter_mean:.2g} nats per token (tolerance {tolerance:g})"
    for name, rows in earlier.items():
        if _distance(served, _flat(rows)) <= tolerance:
            raise CanaryError(f"stale adapter: {name} is served under this name; {gap}")
    if _distance(served, without) <= tolerance:
        raise CanaryError(f"adapter not applied: the base answers in its place; {gap}")
    moved, effect = served - without, expected - without
    cosine = float(moved @ effect) / (math.sqrt(float(moved @ moved) * float(effect @ effect)) or 1.0)
    if cosine >= _SAME_DIRECTION:
        share = float(moved @ effect) / float(effect @ effect)
        raise CanaryError(f"adapter applied in part: {share:.0%} of its effect is served; {gap}")
    raise CanaryError(
        f"stale adapter: what is served has little in common with what was trained (cosine {cosine:.2f}); {gap}"
    )


def measure(*, served_base: Rows, served_adapter: Rows, base: Rows, adapter: Rows, tolerance: float) -> CanaryReport:
    """The differences alone, without a judgement. Raises ValueError where prompts or tokens do not match."""
    base_gap, adapter_gap = np.abs(_flat(served_base) - _flat(base)), np.abs(_flat(served_adapter) - _flat(adapter))
    return CanaryReport(
        base_mean=float(base_gap.mean()),
        base_max=float(base_gap.max()),
        adapter_mean=float(adapter_gap.mean()),
        adapter_max=float(adapter_gap.max()),
        effect_mean=_distance(_flat(adapter), _flat(base)),
        tokens=base_gap.size,
        tolerance=tolerance,
    )


def _flat(rows: Rows) -> np.ndarray:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    """Mean absolute difference."""
    return float(np.abs(left - right).mean())
