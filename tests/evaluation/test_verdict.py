"""The gate's decisions: one look, several looks, guards; how often they are wrong, by simulation with known truth."""

import dataclasses

import numpy as np
import pytest

from agentloop.evaluation import guard
from agentloop.evaluation.looks import Look, most, plan
from agentloop.evaluation.statistics import mcnemar
from agentloop.evaluation.verdict import judge
from agentloop.records import Evaluation
from agentloop.settings import Gate, Guard

ONLY, GATE = Look(1, 1), Gate()


def evaluation(policy: str, successes) -> Evaluation:
    rows = tuple(tuple(bool(value) for value in row) for row in successes)
    return Evaluation(policy, tuple(f"task_{n}" for n in range(len(rows))), len(rows[0]), 0, rows)


def decided(before, after, gate: Gate = GATE, look: Look = ONLY, guards=()):
    return judge(evaluation("a", before), evaluation("b", after), gate, look=look, guards=guards)


def outcomes(rate: float, seed: int, tasks: int = 200, samples: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).random((tasks, samples)) < rate


def at_most(wrong: int, trials: int, level: float) -> bool:
    return wrong / trials <= level + 3 * np.sqrt(level * (1 - level) / trials)


def test_a_clear_gain_is_promoted():
    before, after = outcomes(0.35, 0), outcomes(0.75, 1)
    verdict = decided(before, after)
    assert verdict.decision == "promote"
    assert verdict.mcnemar_p < 1e-10
    assert 0.3 < verdict.difference.low < verdict.difference.estimate < verdict.difference.high < 0.5
    assert verdict.champion_success.high < verdict.challenger_success.low
    assert verdict.reason.startswith("Promoted: +") and "\n" not in verdict.reason
    assert (verdict.champion, verdict.challenger) == (evaluation("a", before).id, evaluation("b", after).id)


def test_a_clear_loss_is_not():
    verdict = decided(outcomes(0.75, 0), outcomes(0.35, 1))
    assert verdict.decision == "keep" and verdict.mcnemar_p < 1e-10


def test_the_same_is_not():
    verdict = decided(outcomes(0.5, 0), outcomes(0.5, 0))
    assert verdict.decision == "keep"
    assert (
        verdict.mcnemar_p == 1 and verdict.difference.estimate == verdict.difference.low == verdict.difference.high == 0
    )


def test_a_gain_below_the_one_asked_for_is_not():
    before, after = outcomes(0.35, 0), outcomes(0.5, 1)
    assert decided(before, after, Gate(min_gain=0.0)).decision == "promote"
    assert decided(before, after, Gate(min_gain=0.3)).decision == "keep"


def test_a_promising_gain_on_few_tasks_asks_for_more():
    before = np.zeros((10, 1), bool)
    after = before.copy()
    after[:5] = True
    verdict = decided(before, after, Gate(alpha=0.01))
    assert verdict.decision == "needs_more_data"
    assert verdict.mcnemar_p == pytest.approx(2 / 32)
    assert "needs about" in verdict.reason


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 3}, {"tasks": tuple(f"task_{n}" for n in range(1, 201))}])
def test_other_tasks_samples_or_seeds_are_not_compared(change):
    champion = evaluation("a", outcomes(0.35, 0))
    challenger = dataclasses.replace(evaluation("b", outcomes(0.75, 1)), **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        judge(champion, challenger, Gate(), look=ONLY)
    with pytest.raises(ValueError, match=next(iter(change))):
        guard.examine("database", champion, challenger, Guard(), look=ONLY, resamples=10)


def test_no_policy_is_promoted_over_itself_more_often_than_alpha():
    promoted = 0
    rng = np.random.default_rng(3)
    for _ in range(300):
        difficulty = rng.beta(0.5, 0.5, (100, 1))
        before, after = rng.random((2, 100, 4)) < difficulty
        promoted += decided(before, after, Gate(alpha=0.05, resamples=500)).decision == "promote"
    assert at_most(promoted, 300, 0.025)  # one side of the two-sided level


# Looks


@pytest.mark.parametrize(("limit", "tasks"), [(None, [200]), (100, [200]), (799, [200, 400]), (800, [200, 400, 800])])
def test_looks_double_the_tasks_up_to_the_limit(limit, tasks):
    assert [200 * look.scale for look in plan(most(200, limit))] == tasks


def test_the_looks_together_spend_the_level():
    assert sum(look.share(0.01) for look in plan(4)) == pytest.approx(0.01)
    assert [look.last for look in plan(3)] == [False, False, True]


def test_a_look_among_several_asks_for_more_evidence():
    before = np.array([[False]] * 12 + [[True]] * 2 + [[True]] * 26)
    after = np.array([[True]] * 12 + [[False]] * 2 + [[True]] * 26)
    alone = decided(before, after, Gate(alpha=0.03))
    first = decided(before, after, Gate(alpha=0.03), Look(1, 3))
    assert alone.mcnemar_p == first.mcnemar_p == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert (alone.decision, first.decision) == ("promote", "needs_more_data")
    assert (first.look, first.looks, first.alpha) == (1, 3, pytest.approx(0.01))
    assert "look 1 of 3, each at p < 0.01" in first.reason


def test_looking_again_while_it_is_unclear_is_wrong_no_more_often_than_alpha():
    gate = Gate(alpha=0.2, resamples=100)
    looks = plan(4)
    rng = np.random.default_rng(5)
    again = promoted = naive = 0
    for _ in range(300):
        difficulty = rng.beta(0.5, 0.5, (160, 1))
        before, after = rng.random((2, 160, 2)) < difficulty
        for look in looks:
            tasks = 20 * look.scale
            verdict = decided(before[:tasks], after[:tasks], gate, look)
            if verdict.decision != "needs_more_data":
                break
        again += look.number > 1
        promoted += verdict.decision == "promote"
        tests = [mcnemar(before[: 20 * look.scale], after[: 20 * look.scale]) for look in looks]
        naive += any(test.p < gate.alpha and test.gained > test.lost for test in tests)
    assert again > 20  # looks are taken
    assert at_most(promoted, 300, gate.alpha / 2)
    assert not at_most(naive, 300, gate.alpha / 2)  # what the full level at every look would have given


# Guards


def guarded(before, after, look: Look = ONLY, **settings):
    guarding = Guard(**settings)
    return guard.examine(
        "database", evaluation("a", before), evaluation("b", after), guarding, look=look, resamples=500
    )


GAIN = outcomes(0.35, 0), outcomes(0.75, 1)


def test_a_challenger_that_got_worse_elsewhere_is_not_promoted_and_the_guard_is_named():
    failed = guarded(outcomes(0.8, 2), outcomes(0.6, 3))
    verdict = decided(*GAIN, guards=[failed])
    assert not failed.passed and failed.difference.high < 0
    assert verdict.decision == "keep" and verdict.guards == (failed,)
    assert "the guard database is not passed: -" in verdict.reason


def test_a_challenger_that_is_no_worse_passes():
    same = outcomes(0.8, 2)
    passed = guarded(same, same)
    verdict = decided(*GAIN, guards=[passed])
    assert passed.passed and verdict.decision == "promote" and verdict.guards == (passed,)


def test_one_guard_of_two_is_enough_to_stop_a_promotion():
    same = outcomes(0.8, 2)
    guards = [guarded(same, same), guarded(outcomes(0.8, 2), outcomes(0.6, 3))]
    assert decided(*GAIN, guards=guards).decision == "keep"


def test_a_guard_on_too_few_tasks_asks_for_more():
    # nothing differs, but on 40 tasks a loss of 5 points cannot be ruled out
    few = guarded(outcomes(0.8, 2, tasks=40), outcomes(0.8, 2, tasks=40))
    assert few.difference.estimate == 0 and few.bound < -0.05 and not few.passed
    assert decided(*GAIN, guards=[few]).decision == "needs_more_data"


def test_a_guard_never_makes_a_promotion():
    same = outcomes(0.8, 2)
    assert decided(*GAIN[::-1], guards=[guarded(same, same)]).decision == "keep"


@pytest.mark.parametrize(("tasks", "concentration"), [(200, 1.0), (200, 20.0), (60, 1.0)])
def test_a_challenger_that_is_worse_by_the_margin_passes_no_more_often_than_alpha(tasks, concentration):
    rng = np.random.default_rng(7)
    passed = 0
    for _ in range(200):
        difficulty = rng.beta(0.8 * concentration, 0.2 * concentration, (tasks, 1))
        before = rng.random((tasks, 4)) < difficulty
        after = rng.random((tasks, 4)) < difficulty * (1 - 0.1 / 0.8)  # in the mean by 0.1 less
        result = guard.examine(
            "database",
            evaluation("a", before),
            evaluation("b", after),
            Guard(margin=0.1),
            look=ONLY,
            resamples=200,
        )
        passed += result.passed
    assert at_most(passed, 200, 0.05)


def test_a_challenger_that_is_equal_passes_most_often():
    rng = np.random.default_rng(8)
    passed = 0
    for _ in range(60):
        difficulty = rng.beta(0.8, 0.2, (200, 1))
        before, after = rng.random((2, 200, 4)) < difficulty
        passed += guarded(before, after).passed
    assert passed > 48
