"""Evidence by betting: how much a gambler has won who bets that the challenger is better, at odds that are fair if it is not.

The null hypothesis is that the mean difference of two policies over the distribution of tasks is at most `least`. A gambler
starts with 1 and stakes a fixed share of what is there on every task in turn. Under the null hypothesis no stake gains on
average, so the wealth is a nonnegative supermartingale, and by Ville's inequality (1939) it ever reaches 1/a with a
probability of at most a: however many tasks there are, whenever somebody looks, and whatever the distribution of the
differences between -1 and 1 is. For a bounded mean every test of this kind is such a bet (Clerico 2024, arXiv 2412.02640).

The best stake depends on mean and spread, which nobody knows beforehand, so the wealth is divided among gamblers with
different stakes, and what counts is their sum: a mixture, as in Cover's universal portfolios (1991) and in Waudby-Smith and
Ramdas, Estimating means of bounded random variables by betting (J. R. Statist. Soc. B 86 (2024) 1, arXiv 2010.09686).
"""

from __future__ import annotations

from math import ceil, exp, inf, log, sqrt
from statistics import NormalDist

import numpy as np

BETS = 16
"""Gamblers, who begin with equal shares."""

STAKES = 1 - (1 - (np.arange(BETS) + 0.5) / BETS) ** 2
"""Their stakes, as a share of the largest that cannot bankrupt; dense at the large ones, which small spreads ask for. [BETS]"""

POWER = 0.8
"""Chance of finding a difference that is called detectable."""

MIXTURE = 1.0
"""Logarithm of what the mixture of stakes has less than the best of them, about, on some hundreds of tasks."""


def wealth(differences: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the logarithm of the wealth after each task, in their order, against a mean of at most `least`. [tasks]

    `differences`: between -1 and 1, in an order that was fixed before any was known. [tasks]
    """
    return mixed(np.cumsum(log_returns(differences, least, STAKES), axis=-2))


def mixed(logs: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean of the gamblers' wealths, given their logarithms. [..., BETS] -> [...]"""
    highest = logs.max(axis=-1)
    return highest + np.log(np.exp(logs - highest[..., None]).mean(axis=-1))


def evidence(differences: np.ndarray, least: float = 0.0) -> float:
    """Return the highest wealth on the way (an e-process at its maximum), which is what Ville's inequality bounds."""
    return exp(min(float(wealth(differences, least).max()), 700.0))


def surely_exceeds(differences: np.ndarray, needed: float) -> float:
    """Return the largest `least` against which the evidence is `needed`: a lower confidence bound at the level 1/`needed`."""
    low, high = -1.0, float(differences.mean())
    for _ in range(50):
        middle = (low + high) / 2
        if middle == low:
            break
        if evidence(differences, middle) >= needed:
            low = middle
        else:
            high = middle
    return low


def tasks_needed(differences: np.ndarray, needed: float, least: float = 0.0) -> float:
    """Return how many tasks that come out like these bring the evidence to `needed`; infinity where they never do."""
    growth = float(log_returns(differences, least, np.linspace(0, 1, 100, endpoint=False)).mean(axis=0).max())
    return ceil((log(needed) + MIXTURE) / growth) if growth > 0 else inf


def detectable(differences: np.ndarray, needed: float, power: float = POWER) -> float:
    """Return the smallest mean that brings the evidence to `needed`, with `power`, on as many tasks of such a spread.

    By the normal approximation of the logarithm of the wealth. At least one task is taken to differ: where none does, the
    spread is unknown, not zero.
    """
    tasks = len(differences)
    spread = max(float(differences.std(ddof=1)) if tasks > 1 else 1.0, sqrt(1 / tasks))
    margin = NormalDist().inv_cdf(power)
    return (margin + sqrt(margin**2 + 2 * (log(needed) + MIXTURE))) * spread / sqrt(tasks)


def log_returns(differences: np.ndarray, least: float, stakes: np.ndarray) -> np.ndarray:
    """Return the logarithm of what each task multiplies the wealth at each stake by. [tasks, stakes]"""
    # a difference of -1 loses the whole of a stake of 1
    return np.log1p(np.multiply.outer((differences - least) / (1 + least), stakes))
