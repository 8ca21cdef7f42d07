"""Statistics of paired, repeated measurements on a set of tasks.

Outcomes are arrays `[tasks, samples]` of booleans. Tasks are independent draws, samples of one task are not: every
interval and test here takes the task as its unit, so that more samples of the same tasks never pass for more evidence.
Policies are compared on the same tasks with the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from agentloop.records import Interval

LEVEL = 0.95
"""Confidence level of every interval that is shown."""

CHUNK = 2**22
"""Random numbers held at once by the bootstrap."""

Outcomes = Sequence[Sequence[bool]] | ArrayLike


@dataclass(frozen=True)
class McNemar:
    gained: int
    """Tasks of which the challenger solved more samples."""
    lost: int
    """Tasks of which the champion solved more samples."""
    p: float
    """Two-sided, exact."""


def mcnemar(champion: Outcomes, challenger: Outcomes) -> McNemar:
    """Exact test of "neither policy is better" on the tasks where they differ.

    With one sample a task this is the exact McNemar test: of the discordant tasks, as many should be gained as lost.
    With several, a task counts as gained where the challenger solved more of its samples, as lost where fewer, and
    ties are concordant. If a task is equally hard for both policies, exchanging them changes nothing, so gain and
    loss are equally likely and the binomial distribution of the gains is exact, whatever the correlation of the
    samples. (Pairing single samples instead would count correlated pairs as independent; taking the first sample
    alone would waste the others.)
    """
    by_task = differences(champion, challenger)
    gained, lost = int((by_task > 0).sum()), int((by_task < 0).sum())
    return McNemar(gained, lost, binomial_p(gained, lost))


def binomial_p(gained: int, lost: int) -> float:
    """Two-sided p of so uneven a split when both sides are equally likely; 1 where nothing differs."""
    total = gained + lost
    tail = sum(comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)  # integers up to the division: exact


def paired_bootstrap(
    champion: Outcomes, challenger: Outcomes, *, resamples: int = 10_000, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Challenger's success less the champion's, with the percentile interval of a bootstrap over tasks.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Whole tasks are drawn, with all samples
    of both policies, so that pairing and clustering are kept. Deterministic by seed.
    """
    by_task = differences(champion, challenger)
    low, high = np.quantile(_resampled_means(by_task, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(by_task.mean()), float(low), float(high))


def lower_bound(
    champion: Outcomes, challenger: Outcomes, *, alpha: float, resamples: int = 10_000, seed: int = 0
) -> float:
    """Return what the difference surely exceeds: a one-sided bootstrap bound that is wrong with probability `alpha` at most.

    One lost task is added to those that were seen. Without it the bootstrap would know no losses but the seen ones: where
    all tasks came out alike its bound would be the estimate itself, however few they are. With it that case gives about
    the exact bound of the binomial distribution (3/tasks below, at 5 %), as Clopper and Pearson's adds one failure.
    """
    by_task = np.append(differences(champion, challenger), -1.0)
    return float(np.quantile(_resampled_means(by_task, resamples, seed), alpha))


def _resampled_means(by_task: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of resamples of the tasks' differences. [resamples]"""
    tasks = len(by_task)
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // tasks)
    return np.concatenate(
        [
            by_task[rng.integers(0, tasks, (min(rows, resamples - first), tasks))].mean(axis=1)
            for first in range(0, resamples, rows)
        ]
    )


def clustered_interval(outcomes: Outcomes, *, level: float = LEVEL) -> Interval:
    """Success rate of one policy with an interval for new tasks of the same kind.

    The Wilson interval with the effective number of independent samples: as many as would give a mean the variance
    that the means of the tasks show. Franco, Little, Louis and Slud, J. Survey Statistics and Methodology 7 (2019)
    334 find it keeps its level for clustered data, also near 0 and 1, where the usual one collapses.
    """
    array = _array(outcomes)
    tasks, samples = array.shape
    rate = float(array.mean())
    variance = float(array.mean(axis=1).var(ddof=1)) / tasks if tasks > 1 else 0.0
    # Where all outcomes are equal nothing says that samples of a task are independent: count each task once.
    effective = min(rate * (1 - rate) / variance, tasks * samples) if variance > 0 else tasks
    return wilson_interval(rate, effective, level=level)


def wilson_interval(rate: float, trials: float, *, level: float = LEVEL) -> Interval:
    """Interval of a proportion seen in independent trials (Wilson, JASA 22 (1927) 209)."""
    z = _z(level)
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def pass_at_k(outcomes: Outcomes, k: int) -> float:
    """Chance that at least one of k samples of a task solves it; unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    Raises ValueError where there are fewer than k samples.
    """
    array = _array(outcomes)
    samples = array.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples of a task, there are {samples}")
    return float(np.mean([1 - comb(samples - solved, k) / comb(samples, k) for solved in array.sum(axis=1).tolist()]))


def differences(champion: Outcomes, challenger: Outcomes) -> np.ndarray:
    """Return the share of its samples that the challenger solved less the champion's share. [tasks]"""
    before, after = _array(champion), _array(challenger)
    if before.shape != after.shape:
        raise ValueError(f"outcomes of {before.shape} and {after.shape} tasks and samples cannot be paired")
    return (after.sum(axis=1) - before.sum(axis=1)) / before.shape[1]


def _array(outcomes: Outcomes) -> np.ndarray:
    array = np.asarray(outcomes, dtype=np.int64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"outcomes must be [tasks, samples] and not empty, not of shape {array.shape}")
    return array


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
