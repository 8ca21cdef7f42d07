"""The gate's power: how often a challenger that is better by so much is promoted, on how many held-out tasks.

Played out with made-up tasks, for nobody knows the real ones before: their difficulties are beta(1/2, 1/2), so that most are
easy or hard, and a better challenger is better where the champion neither always nor never solves a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from agentloop.evaluation import betting

MOST = 3200
"""Tasks up to which it is sought how many are needed."""
TRIALS = 400
"""Challengers that are played out for each gain: a share of them is known to some 2 points."""
_ROOM = 1 / 8
"""Mean of p(1 - p) for p of beta(1/2, 1/2)."""


@dataclass(frozen=True)
class Power:
    """Chances of a challenger whose success is higher by `gain`."""

    gain: float
    """True gain in success, as a share."""
    promoted: float
    """Share of such challengers that are promoted on the tasks that were asked about."""
    tasks: int | None
    """Tasks on which four of five of them are promoted (betting.POWER); None: more than `MOST`."""


def power(
    gain: float, *, tasks: int, samples: int, needed: float, min_gain: float = 0.0, trials: int = TRIALS, seed: int = 0
) -> Power:
    """Return the chances of a challenger better by `gain`, on `tasks` held-out tasks at one look.

    `samples`: episodes of each policy for a task. `needed`: evidence that promotes (level.needed). `min_gain`: as in the
    settings. The same arguments give the same result.
    """
    rng = np.random.default_rng([seed, round(1000 * gain), samples])
    outcomes = drawn(rng, gain, trials, max(tasks, MOST), samples)
    count = np.arange(1, outcomes.shape[1] + 1)
    ahead = np.cumsum(outcomes - samples, 1) > min_gain * samples * count
    found = (courses(outcomes, samples, min_gain) >= log(needed)) & ahead
    most = enough(found[:, :MOST])
    return Power(gain, float(found[:, tasks - 1].mean()), most)


def drawn(rng: np.random.Generator, gain: float, trials: int, tasks: int, samples: int) -> np.ndarray:
    """Return how many samples of each task the challenger solves more than the champion, plus `samples`. [trials, tasks]"""
    chance = rng.beta(0.5, 0.5, (trials, tasks))
    better = np.clip(chance + gain / _ROOM * chance * (1 - chance), 0, 1)
    return (rng.binomial(samples, better) - rng.binomial(samples, chance) + samples).astype(np.int16)


def courses(outcomes: np.ndarray, samples: int, least: float = 0.0) -> np.ndarray:
    """Return the logarithm of the highest evidence so far, against a mean gain of at most `least`. [trials, tasks]

    `outcomes`: as `drawn` gives them. [trials, tasks]
    """
    returns = betting.log_returns(np.arange(-samples, samples + 1) / samples, least, betting.STAKES)
    logs = np.zeros((len(outcomes), betting.BETS))
    highest = np.full(len(outcomes), -np.inf)
    found = np.empty(outcomes.shape, np.float32)
    for task in range(outcomes.shape[1]):
        logs += returns[outcomes[:, task]]
        highest = np.maximum(highest, betting.mixed(logs))
        found[:, task] = highest
    return found


def enough(found: np.ndarray) -> int | None:
    """Return the fewest tasks on which four of five trials are found; None where none of these are enough.

    `found`: booleans. [trials, tasks]
    """
    shares = found.mean(0)
    return int(np.flatnonzero(shares >= betting.POWER)[0]) + 1 if (shares >= betting.POWER).any() else None
