"""Statistics against scipy, exact enumeration and simulation with known truth."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from agentloop.evaluation.statistics import (
    binomial_p,
    clustered_interval,
    lower_bound,
    mcnemar,
    paired_bootstrap,
    pass_at_k,
    wilson_interval,
)

counts = st.integers(0, 400)


def outcomes(tasks: st.SearchStrategy[int], samples: st.SearchStrategy[int]):
    return st.tuples(tasks, samples).flatmap(lambda shape: arrays(bool, shape))


def pairs(tasks: st.SearchStrategy[int], samples: st.SearchStrategy[int]):
    return st.tuples(tasks, samples).flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


@given(gained=counts, lost=counts)
def test_binomial_p_is_that_of_scipy(gained, lost):
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert binomial_p(gained, lost) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(pair=pairs(st.integers(1, 7), st.integers(1, 4)))
def test_mcnemar_is_the_test_that_exchanges_the_policies_in_every_task(pair):
    champion, challenger = pair
    seen = mcnemar(champion, challenger)
    signs = np.sign(challenger.sum(axis=1) - champion.sum(axis=1))
    assert (seen.gained, seen.lost) == ((signs > 0).sum(), (signs < 0).sum())
    exchanged = [abs(np.dot(signs, flips)) for flips in product([-1, 1], repeat=len(signs))]
    assert seen.p == pytest.approx(np.mean([value >= abs(signs.sum()) for value in exchanged]))
    assert mcnemar(challenger, champion).p == seen.p


def test_mcnemar_with_one_sample_counts_discordant_pairs():
    champion = [[True]] * 5 + [[False]] * 20
    challenger = [[True]] * 3 + [[False]] * 2 + [[True]] * 14 + [[False]] * 6
    result = mcnemar(champion, challenger)
    assert (result.gained, result.lost) == (14, 2)
    assert result.p == pytest.approx(stats.binomtest(2, 16).pvalue)


@pytest.mark.parametrize("samples", [1, 4])
def test_mcnemar_keeps_its_level_where_nothing_differs(samples):
    # Tasks of very different difficulty, so that samples of a task are far from independent.
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(2000):
        difficulty = rng.beta(0.3, 0.3, (60, 1))
        champion, challenger = rng.random((2, 60, samples)) < difficulty
        rejected += mcnemar(champion, challenger).p < 0.05
    assert rejected / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


@settings(max_examples=25, deadline=None)
@given(pair=pairs(st.integers(2, 5), st.integers(1, 3)))
def test_the_bootstrap_is_the_distribution_over_all_resamples(pair):
    champion, challenger = pair
    differences = challenger.mean(axis=1) - champion.mean(axis=1)
    every = np.array([np.mean(draw) for draw in product(differences, repeat=len(differences))])
    interval = paired_bootstrap(champion, challenger, resamples=4000, seed=1)
    assert interval.estimate == pytest.approx(differences.mean())
    for end, share in ((interval.low, 0.025), (interval.high, 0.975)):
        # The end is a quantile: so much lies below it and so much above, up to the error of 4000 draws.
        error = 4 * np.sqrt(0.025 * 0.975 / 4000)
        assert np.mean(every < end - 1e-9) <= share + error
        assert np.mean(every <= end + 1e-9) >= share - error


def test_the_bootstrap_depends_on_its_seed_alone():
    rng = np.random.default_rng(0)
    champion, challenger = rng.random((2, 50, 3)) < 0.5
    assert paired_bootstrap(champion, challenger, seed=1) == paired_bootstrap(champion, challenger, seed=1)
    assert paired_bootstrap(champion, challenger, seed=1) != paired_bootstrap(champion, challenger, seed=2)


def test_the_bootstrap_is_the_same_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    champion, challenger = rng.random((2, 50, 3)) < 0.5
    whole = paired_bootstrap(champion, challenger, resamples=1001, seed=1)
    monkeypatch.setattr("agentloop.evaluation.statistics.CHUNK", 500)
    assert paired_bootstrap(champion, challenger, resamples=1001, seed=1) == whole


@pytest.mark.parametrize("tasks", [10, 40, 200])
@pytest.mark.parametrize("lost", [0, 1, 4])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_bound_is_about_the_exact_one_where_losses_are_a_binomial_count(tasks, lost, alpha):
    champion = np.ones((tasks, 1), bool)
    challenger = champion.copy()
    challenger[:lost] = False
    exact = -stats.binomtest(lost, tasks, alternative="less").proportion_ci(1 - alpha, method="exact").high
    bound = lower_bound(champion, challenger, alpha=alpha, resamples=20_000)
    # the bootstrap's mean is a whole number of tasks, and its binomial has no continuity correction
    assert abs(bound - exact) <= 2.5 / tasks


@settings(max_examples=25, deadline=None)
@given(pair=pairs(st.integers(1, 20), st.integers(1, 3)))
def test_the_bound_is_below_the_difference_and_falls_with_alpha(pair):
    bounds = [lower_bound(*pair, alpha=alpha, resamples=500) for alpha in (0.2, 0.05, 0.01)]
    assert paired_bootstrap(*pair, resamples=10).estimate >= bounds[0] >= bounds[1] >= bounds[2] >= -1


@given(solved=st.integers(0, 60), trials=st.integers(1, 60), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_that_of_scipy(solved, trials, level):
    solved = min(solved, trials)
    expected = stats.binomtest(solved, trials).proportion_ci(level, method="wilson")
    interval = wilson_interval(solved / trials, trials, level=level)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(outcome=outcomes(st.integers(1, 30), st.integers(1, 6)))
def test_a_clustered_interval_holds_the_rate_and_more_than_independent_samples_would(outcome):
    interval = clustered_interval(outcome)
    independent = wilson_interval(outcome.mean(), outcome.size)
    assert 0 <= interval.low <= interval.estimate + 1e-12 and interval.estimate - 1e-12 <= interval.high <= 1
    assert interval.estimate == pytest.approx(outcome.mean())
    assert interval.high - interval.low >= independent.high - independent.low - 1e-12


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.6), (2.0, 1.0), (0.1, 3.0)])
def test_a_clustered_interval_covers_the_true_rate(a, b):
    rng = np.random.default_rng(1)
    covered = naive = 0
    for _ in range(1500):
        difficulty = rng.beta(a, b, (100, 1))
        outcome = rng.random((100, 4)) < difficulty
        interval, independent = clustered_interval(outcome), wilson_interval(outcome.mean(), outcome.size)
        covered += interval.low <= a / (a + b) <= interval.high
        naive += independent.low <= a / (a + b) <= independent.high
    assert covered / 1500 >= 0.93
    assert naive / 1500 < 0.93  # what ignoring the tasks would have given


@given(outcome=outcomes(st.integers(1, 5), st.integers(1, 6)), data=st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k(outcome, data):
    k = data.draw(st.integers(1, outcome.shape[1]))
    expected = np.mean([np.mean([any(choice) for choice in combinations(row, k)]) for row in outcome.tolist()])
    assert pass_at_k(outcome, k) == pytest.approx(expected)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k([[True, False]], 3)


@pytest.mark.parametrize("bad", [[], [[]], [True, False]])
def test_outcomes_have_two_dimensions(bad):
    with pytest.raises(ValueError, match="tasks, samples"):
        clustered_interval(bad)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="paired"):
        mcnemar([[True]], [[True, False]])
