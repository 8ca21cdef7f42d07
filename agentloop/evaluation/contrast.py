"""Two policies on the same held-out tasks: how each does, and by how much the second differs."""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.evaluation.statistics import McNemar, clustered_interval, mcnemar, paired_bootstrap
from agentloop.records import Evaluation, Interval


@dataclass(frozen=True)
class Contrast:
    before: Interval
    after: Interval
    difference: Interval
    """After less before."""
    test: McNemar


def contrast(before: Evaluation, after: Evaluation, *, resamples: int, seed: int = 0) -> Contrast:
    """Raises ValueError where the two were not measured on the same tasks, samples and seed."""
    refuse_unpaired(before, after)
    return Contrast(
        clustered_interval(before.successes),
        clustered_interval(after.successes),
        paired_bootstrap(before.successes, after.successes, resamples=resamples, seed=seed),
        mcnemar(before.successes, after.successes),
    )


def refuse_unpaired(before: Evaluation, after: Evaluation) -> None:
    for name in ("tasks", "samples", "seed"):
        if getattr(before, name) != getattr(after, name):
            raise ValueError(f"{before.id} and {after.id} cannot be compared: they differ in {name}")
