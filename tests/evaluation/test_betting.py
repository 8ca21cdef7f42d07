"""The e-process: exact where it can be enumerated, and how often it is wrong by simulation with known truth."""

from itertools import product
from math import inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentloop.evaluation import betting

shares = st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60)


@pytest.mark.parametrize("least", [-0.05, 0.0, 0.1])
def test_under_the_null_hypothesis_the_wealth_neither_grows_nor_shrinks_on_average(least):
    """Enumerated: three tasks of any distribution on these values whose mean is just `least`."""
    values, chances = np.array([-1.0, 0.25, 1.0]), np.array([0.3, 0.5, 0.2])
    values = values + 0.0
    chances = chances + np.array([1, 0, -1]) * (chances @ values - least) / 2  # moves the mean to `least`
    assert chances @ values == pytest.approx(least) and chances.min() > 0
    mean = sum(
        np.prod([chances[each] for each in places]) * np.exp(betting.wealth(values[list(places)], least)[-1])
        for places in product(range(3), repeat=3)
    )
    assert mean == pytest.approx(1)


@given(shares, st.sampled_from([-0.05, 0.0, 0.1]))
def test_what_comes_later_takes_no_evidence_back(differences, least):
    course = [betting.evidence(np.array(differences[:end]), least) for end in range(1, len(differences) + 1)]
    assert all(before <= after for before, after in zip(course, course[1:], strict=False))
    assert course[-1] == pytest.approx(np.exp(betting.wealth(np.array(differences), least).max()))


@given(shares)
def test_more_is_harder_to_exceed(differences):
    values = [betting.evidence(np.array(differences), least) for least in (-0.1, 0.0, 0.1)]
    assert values[0] >= values[1] >= values[2]


@given(shares, st.sampled_from([3.0, 20.0, 1000.0]))
def test_the_bound_is_where_the_evidence_is_just_enough(differences, needed):
    array = np.array(differences)
    bound = betting.surely_exceeds(array, needed)
    if array.mean() == -1:
        assert bound == -1
        return
    assert -1 <= bound <= array.mean()
    assert bound == -1 or betting.evidence(array, bound) >= needed
    assert betting.evidence(array, min(bound + 1e-6, array.mean())) < needed * 1.001 or bound == pytest.approx(
        array.mean()
    )


def null_nights(rng: np.random.Generator, kind: str, trials: int, tasks: int) -> np.ndarray:
    """Differences with a mean of 0. [trials, tasks]"""
    if kind == "one sample":
        difficulty = rng.beta(0.5, 0.5, (trials, tasks))
        return (rng.random((trials, tasks)) < difficulty) * 1.0 - (rng.random((trials, tasks)) < difficulty)
    if kind == "four samples":
        difficulty = rng.beta(0.5, 0.5, (trials, tasks))
        return (rng.binomial(4, difficulty) - rng.binomial(4, difficulty)) / 4
    if kind == "graded":  # rewards between 0 and 1
        return rng.beta(0.4, 0.8, (trials, tasks)) - rng.beta(0.4, 0.8, (trials, tasks))
    # a little better at most tasks, lost at one in ten: no sign test would keep its level
    return np.where(rng.random((trials, tasks)) < 0.1, -0.9, 0.1)


KINDS = ("one sample", "four samples", "graded", "lopsided")


def ever_reached(kind: str, needed: float, least: float = 0.0, trials: int = 3000) -> float:
    rng = np.random.default_rng(11)
    nights = null_nights(rng, kind, trials, 300)
    logs = np.cumsum(betting.log_returns(nights, least, betting.STAKES), axis=1)
    return float((betting.mixed(logs).max(axis=1) >= log(needed)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_is_not_better_ever_gets_the_evidence_no_more_often_than_the_level(kind):
    """At any of 300 looks, one after each task."""
    for needed in (5, 20, 100):
        level = 1 / needed
        assert ever_reached(kind, needed) <= level + 3 * np.sqrt(level * (1 - level) / 3000)


@pytest.mark.parametrize("kind", KINDS)
def test_the_simulation_sees_odds_that_are_a_little_too_good(kind):
    """The test above can fail: odds as if a mean of 3 points, and none of 0, were fair break the level."""
    level = 1 / 20
    assert ever_reached(kind, 20, least=-0.03) > level + 3 * np.sqrt(level * (1 - level) / 3000)


def test_looking_again_at_a_p_value_would_break_it():
    """What the evidence spares: a test at its whole level after each task is wrong far more often."""
    nights = null_nights(np.random.default_rng(11), "four samples", 1000, 300)
    count = np.arange(1, 301)
    deviation = np.cumsum(nights, 1) / np.sqrt(np.maximum(np.cumsum(nights**2, 1), 1e-9))
    assert ((deviation > 1.645) & (count >= 20)).any(1).mean() > 0.15  # at a level of 0.05


def test_a_detectable_difference_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(2)
    difficulty = rng.beta(2, 2, (400, 1))

    def trial(gain: float) -> np.ndarray:
        better = difficulty + gain * 4 * difficulty * (1 - difficulty)
        return (rng.random((400, 4)) < better).mean(1) - (rng.random((400, 4)) < difficulty).mean(1)

    detectable = np.mean([betting.detectable(trial(0.0), 1000) for _ in range(20)])
    share = np.mean(4 * difficulty * (1 - difficulty))
    found = np.mean([betting.evidence(trial(detectable / share)) >= 1000 for _ in range(300)])
    assert 0.7 < found < 0.95


def test_tasks_needed_settle_it():
    gain = np.array([0.5, 0.25, 0.0, -0.25] * 10)
    needed = betting.tasks_needed(gain, 1000)
    assert 40 < needed < 400
    assert betting.evidence(np.tile(gain, int(needed // 40) + 1)) >= 1000
    assert betting.tasks_needed(-gain, 1000) == betting.tasks_needed(np.zeros(40), 1000) == inf
    assert betting.tasks_needed(gain, 1000, least=0.1) > needed


def test_no_difference_at_all_is_not_an_infinite_power():
    assert betting.detectable(np.zeros(100), 1000) > 0.01
