"""How often the gate is wrong in the whole life of a campaign, and what it finds: today's rule and the one before it.

    python benchmarks/simulate_gate.py [--campaigns 10000] [--trials 2000] [--json …] [--plots docs]

Tasks differ in difficulty (beta(1/2, 1/2): most are easy or hard) and have 4 samples of each policy. On a null night the
challenger has the champion's chance at every task. Champion and tasks stay, as they do in a campaign: with today's rule for
the challengers of a block, with the one before for ever. As a fluke of the champion then shows on every night, the same is
also done with fresh tasks and outcomes on each. At a gain the challenger's chance is higher where the champion neither
always nor never solves the task, so that the mean gain is the one asked for; all nights before were null nights.

The rule before was an exact sign test of tasks gained and lost at `alpha`, divided by the number of looks, with a bootstrap
bound above 0; each challenger had a level of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from itertools import product
from math import comb, log, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy import special

from agentloop.evaluation import betting, level
from agentloop.evaluation.power import MOST, courses, drawn, enough
from agentloop.evaluation.statistics import lower_bound
from agentloop.evaluation.verdict import MORE
from agentloop.records import Entry
from agentloop.report.svg import Canvas, Scale
from agentloop.settings import Gate

SAMPLES, LOOKS, NIGHTS = 4, (200, 400), 365
SHOWN = (1, 30, 365)
GAINS = (0.02, 0.05, 0.10)
TASKS = (200, 400, 800)
GATE = Gate()

VALUES = np.arange(-SAMPLES, SAMPLES + 1) / SAMPLES
GROWTH = betting.log_returns(VALUES, 0.0, np.linspace(0, 1, 100, endpoint=False))
CHUNK = 500
"""Campaigns at a time."""


def entry(night: int) -> Entry:
    """Where the challenger of a night stands when nothing was promoted before."""
    place = (night - 1) % GATE.block_challengers
    return Entry(night, 1 + (night - 1) // GATE.block_challengers, 1 + place)


def needed(night: int) -> float:
    return log(level.needed(entry(night), level.CHALLENGERS * GATE.alpha))


def promising(outcomes: np.ndarray, least: float) -> np.ndarray:
    """Trials whose evidence may have reached `least`: log(1 + x) <= x - x²/6 for |x| <= 1 bounds it by their sums."""
    differences = (outcomes - SAMPLES).astype(np.int16)
    total, squares = np.cumsum(differences, 1, dtype=np.int32), np.cumsum(differences**2, 1, dtype=np.int32)
    return (1.5 * np.square(total, dtype=np.float64) * (total > 0) >= least * squares).any(1) & (total > 0).any(1)


def reached(outcomes: np.ndarray, least: float) -> np.ndarray:
    found = np.zeros(len(outcomes), bool)
    rows = np.flatnonzero(promising(outcomes, least))
    if len(rows):
        highest = courses(outcomes[rows], SAMPLES)[:, -1]
        found[rows] = (highest >= least) & (outcomes[rows].mean(1) > SAMPLES)
    return found


def asks_for_more(outcomes: np.ndarray, least: float) -> np.ndarray:
    """As `betting.tasks_needed` decides."""
    shares = np.stack([(outcomes == value).mean(1) for value in range(len(VALUES))], 1)
    growth = (shares @ GROWTH).max(1)
    return growth * MORE * outcomes.shape[1] >= least + betting.MIXTURE


# the rule before


def sign_p(outcomes: np.ndarray) -> np.ndarray:
    gained, lost = (outcomes > SAMPLES).sum(1), (outcomes < SAMPLES).sum(1)
    return np.where(gained > lost, 2 * special.bdtr(lost, gained + lost, 0.5), 1.0)


def reached_before(outcomes: np.ndarray, alpha: float) -> np.ndarray:
    found = sign_p(outcomes) < alpha
    for row in np.flatnonzero(found):
        solved = np.arange(SAMPLES) < np.clip(outcomes[row] - SAMPLES, 0, None)[:, None]
        had = np.arange(SAMPLES) < np.clip(SAMPLES - outcomes[row], 0, None)[:, None]
        found[row] = lower_bound(had, solved, alpha=alpha / 2, resamples=500) > 0
    return found


def asks_for_more_before(outcomes: np.ndarray, alpha: float) -> np.ndarray:
    tasks = outcomes.shape[1]
    differences = (outcomes - SAMPLES) / SAMPLES
    spread = np.maximum(differences.std(1, ddof=1), sqrt(1 / tasks))
    detectable = (NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(0.8)) * spread / sqrt(tasks)
    gain = differences.mean(1)
    return (gain > 0) & (tasks * detectable**2 <= MORE * tasks * gain**2)


class Tasks:
    """Tasks with the champion's outcomes, on which challengers of the same chances are drawn."""

    def __init__(self, rng: np.random.Generator, campaigns: int, tasks: int) -> None:
        chance = rng.beta(0.5, 0.5, (campaigns, tasks))
        terms = [comb(SAMPLES, k) * chance**k * (1 - chance) ** (SAMPLES - k) for k in range(SAMPLES)]
        self.steps = np.cumsum(terms, 0).astype(np.float32)
        self.champion = self.solved(rng, np.arange(campaigns), 0, tasks)

    def solved(self, rng: np.random.Generator, rows: np.ndarray, first: int, end: int) -> np.ndarray:
        drawn = rng.random((len(rows), end - first), np.float32)
        return sum((drawn > step[rows, first:end]).astype(np.int8) for step in self.steps)

    def outcomes(self, rng: np.random.Generator, rows: np.ndarray, first: int, end: int) -> np.ndarray:
        return self.solved(rng, rows, first, end) - self.champion[rows, first:end] + np.int8(SAMPLES)


class FreshTasks:
    """Tasks and champions of which each is met once: outcomes are independent, and their distribution is exact."""

    def __init__(self) -> None:
        chances = np.zeros(len(VALUES))
        for one, other in product(range(SAMPLES + 1), repeat=2):
            solved = one + other  # of both policies together: beta-binomial
            both = special.beta(solved + 0.5, 2 * SAMPLES - solved + 0.5) / special.beta(0.5, 0.5)
            chances[one - other + SAMPLES] += comb(SAMPLES, one) * comb(SAMPLES, other) * both
        self.steps = np.cumsum(chances)[:-1].astype(np.float32)

    def outcomes(self, rng: np.random.Generator, rows: np.ndarray, first: int, end: int) -> np.ndarray:
        return np.searchsorted(self.steps, rng.random((len(rows), end - first), np.float32)).astype(np.int8)


def null_campaigns(rng: np.random.Generator, campaigns: int, *, before: bool, fresh: bool) -> tuple[np.ndarray, float]:
    """(nights on which the campaigns first promoted, 0 for never; tasks of a challenger in the mean)"""
    first = np.zeros(campaigns, np.int64)
    looked = 0
    alpha = GATE.alpha / len(LOOKS)
    for night in range(1, NIGHTS + 1):
        if fresh:
            tasks: Tasks | FreshTasks = FreshTasks()
        elif night == 1 or (not before and entry(night).place == 1):
            tasks = Tasks(rng, campaigns, LOOKS[-1])
        least = needed(night)
        rows = np.arange(campaigns)  # a campaign that has promoted goes on: what counts is its first time
        outcomes = np.empty((campaigns, 0), np.int8)
        start = 0
        for look in LOOKS:
            outcomes = np.concatenate([outcomes, tasks.outcomes(rng, rows, start, look)], 1)
            looked += len(rows) * (look - start)
            promoted = reached_before(outcomes, alpha) if before else reached(outcomes, least)
            first[rows[promoted & (first[rows] == 0)]] = night
            again = asks_for_more_before(outcomes, alpha) if before else asks_for_more(outcomes, least)
            again &= ~promoted
            rows, outcomes, start = rows[again], outcomes[again], look
            if not len(rows):
                break
    return first, looked / campaigns / NIGHTS


def null(campaigns: int, *, before: bool, fresh: bool = False) -> dict[str, Any]:
    found, looked = [], []
    for number, start in enumerate(range(0, campaigns, CHUNK)):
        first, mean = null_campaigns(
            np.random.default_rng([1 + before + 4 * fresh, number]),
            min(CHUNK, campaigns - start),
            before=before,
            fresh=fresh,
        )
        found.append(first)
        looked.append(mean)
    first = np.concatenate(found)
    ever = [float(np.mean((first > 0) & (first <= night))) for night in range(1, NIGHTS + 1)]
    return {
        "campaigns": campaigns,
        "ever_by_night": {str(night): ever[night - 1] for night in (1, 30, 100, 365)},
        "promoted": int((first > 0).sum()),
        "tasks_in_the_mean": float(np.mean(looked)),
        "course": ever,
    }


def power(gain: float, trials: int) -> dict[str, Any]:
    outcomes = drawn(np.random.default_rng([3, round(1000 * gain)]), gain, trials, MOST, SAMPLES)
    highest = courses(outcomes, SAMPLES)
    count = np.arange(1, MOST + 1)
    ahead = np.cumsum(outcomes - SAMPLES, 1) > 0
    nights = {}
    for night in SHOWN:
        least = needed(night)
        found = (highest >= least) & ahead
        open_, tasks = np.ones(trials, bool), np.zeros(trials)
        promoted = np.zeros(trials, bool)
        for look in (200, 400, 800):
            tasks[open_] = look
            promoted |= open_ & found[:, look - 1]
            open_ &= ~promoted & asks_for_more(outcomes[:, :look], least)
        nights[str(night)] = {
            "evidence_needed": float(np.exp(least)),
            "promoted": {str(tasks): float(found[:, tasks - 1].mean()) for tasks in TASKS},
            "growing_from_200_to_800": {"promoted": float(promoted.mean()), "tasks_in_the_mean": float(tasks.mean())},
            "tasks_for_80_percent": enough(found),
        }
    some = outcomes[: trials // 2]
    rising = count[99::20]
    signs = np.stack([sign_p(some[:, :tasks]) < GATE.alpha for tasks in rising], 1)
    at = enough(signs)
    return {
        "nights": nights,
        "rule_before": {
            "promoted": {str(tasks): float(reached_before(some[:, :tasks], GATE.alpha).mean()) for tasks in TASKS},
            "tasks_for_80_percent": None if at is None else int(rising[at - 1]),
        },
    }


def by_night(gain: float, trials: int) -> dict[str, list[float]]:
    """Power on every night up to the last, by tasks."""
    outcomes = drawn(np.random.default_rng([4, round(1000 * gain)]), gain, trials, TASKS[-1], SAMPLES)
    highest = courses(outcomes, SAMPLES)
    levels = np.array([needed(night) for night in range(1, NIGHTS + 1)])
    return {str(tasks): (highest[:, tasks - 1, None] >= levels).mean(0).tolist() for tasks in TASKS}


def plot(title: str, caption: str, curves: Sequence[tuple[str, str, Sequence[float]]]) -> bytes:
    """Shares by night, the nights on a logarithmic scale. `curves`: (class, name, share on each night)."""
    canvas = Canvas(title, 244)
    up, across = Scale(0, 100, 200, 14), Scale(0, log(NIGHTS), 34, canvas.width - 74)
    for tick in (0, 25, 50, 75, 100):
        canvas.line(34, up(tick), canvas.width - 74, up(tick), "grid")
        canvas.text(28, up(tick) + 4, str(tick), anchor="end")
    for night in (1, 3, 10, 30, 100, 365):
        canvas.text(across(log(night)), 216, str(night), anchor="middle")
    canvas.text((canvas.width - 40) / 2, 236, caption, anchor="middle")
    for kind, name, shares in curves:
        points = [(across(log(night)), up(100 * share)) for night, share in enumerate(shares, 1)]
        canvas.path(points, kind, name)
        canvas.text(canvas.width - 68, points[-1][1] + 4, name, "value" if kind == "now" else "label")
    return canvas.file()


def main(campaigns: int, trials: int, result: Path, plots: Path) -> None:
    started = time.monotonic()
    rules = ("e_values", "rule_before")
    lives = {name: null(campaigns, before=name == "rule_before") for name in rules}
    fresh = {name: null(campaigns // 5, before=name == "rule_before", fresh=True) for name in rules}
    course = {name: life.pop("course") for name, life in lives.items()}
    course_fresh = {name: life.pop("course") for name, life in fresh.items()}
    found = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "command": "python benchmarks/simulate_gate.py",
        "alpha": GATE.alpha,
        "samples": SAMPLES,
        "looks_on_null_nights": list(LOOKS),
        "block_challengers": GATE.block_challengers,
        "null_nights": lives,
        "null_nights_with_fresh_tasks": fresh,
        "gains": {f"{100 * gain:g}": power(gain, trials) for gain in GAINS},
        "trials": trials,
    }
    nightly = by_night(0.05, trials)
    found["seconds"] = round(time.monotonic() - started)
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    told = "Campaigns that have ever promoted a challenger that is no better, %"
    lines = [
        ("now", "e-values", course["e_values"]),
        ("control", "before", course["rule_before"]),
        ("then", "fresh tasks", course_fresh["rule_before"]),
    ]
    (plots / "gate-null.svg").write_bytes(plot(told, "night, each a null night", lines))
    told = "Challengers better by 5 points that are promoted, %"
    kinds = {"200": "then", "400": "then", "800": "now"}
    (plots / "gate-power.svg").write_bytes(
        plot(told, "night, after null nights", [(kinds[tasks], f"{tasks} tasks", nightly[tasks]) for tasks in nightly])
    )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=10_000, help="of null nights, for each rule")
    parser.add_argument("--trials", type=int, default=2000, help="challengers for each gain")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gate.json"))
    parser.add_argument("--plots", type=Path, default=Path("docs"))
    asked = parser.parse_args()
    main(asked.campaigns, asked.trials, asked.json, asked.plots)
