"""The gate's decisions: one look, several looks, guards; how often they are wrong, by simulation with known truth."""

import dataclasses

import numpy as np
import pytest

from agentloop.evaluation import guard
from agentloop.evaluation.level import of_entry
from agentloop.evaluation.looks import Look, most, plan
from agentloop.evaluation.verdict import judge
from agentloop.records import Entry, Evaluation
from agentloop.settings import Gate, Guard

ONLY, GATE, FIRST = Look(1, 1), Gate(), Entry()


def evaluation(policy: str, successes) -> Evaluation:
    rows = tuple(tuple(bool(value) for value in row) for row in successes)
    return Evaluation(policy, tuple(f"task_{n}" for n in range(len(rows))), len(rows[0]), 0, rows)


def decided(before, after, gate: Gate = GATE, look: Look = ONLY, guards=(), entry: Entry = FIRST):
    return judge(evaluation("a", before), evaluation("b", after), gate, look=look, entry=entry, guards=guards)


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
    assert ", evidence e = 3.8e+26" in verdict.reason and ", 829 needed; " in verdict.reason
    assert (
        verdict.evidence > 1e20 and verdict.needed == pytest.approx(829, abs=1) and verdict.alpha == 1 / verdict.needed
    )
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
    verdict = decided(before, after)
    assert verdict.decision == "needs_more_data"
    assert verdict.mcnemar_p == pytest.approx(2 / 32)
    assert "needs about" in verdict.reason


def test_a_later_challenger_needs_more_evidence():
    before, after = outcomes(0.5, 0), outcomes(0.6, 1)
    verdicts = [decided(before, after, entry=entry) for entry in (FIRST, Entry(400, 50, 8), Entry(9, 1, 9, 4))]
    assert len({verdict.evidence for verdict in verdicts}) == 1
    assert [verdict.decision for verdict in verdicts] == ["promote", "needs_more_data", "needs_more_data"]


def test_evidence_that_has_gone_again_promotes_nobody():
    """It was enough once, and the level holds; but a champion that is not seen better is none that anybody wants."""
    before = np.zeros((60, 1), bool)
    after = before.copy()
    after[:20] = True
    before[20:] = True
    verdict = decided(before, after)
    assert verdict.evidence > verdict.needed and verdict.difference.estimate < 0 and verdict.decision == "keep"


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 3}, {"tasks": tuple(f"task_{n}" for n in range(1, 201))}])
def test_other_tasks_samples_or_seeds_are_not_compared(change):
    champion = evaluation("a", outcomes(0.35, 0))
    challenger = dataclasses.replace(evaluation("b", outcomes(0.75, 1)), **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        judge(champion, challenger, Gate(), look=ONLY, entry=FIRST)
    with pytest.raises(ValueError, match=next(iter(change))):
        guard.examine("database", champion, challenger, Guard(), entry=FIRST, resamples=10)


def test_no_policy_is_promoted_over_itself_more_often_than_alpha():
    promoted = 0
    rng = np.random.default_rng(3)
    gate = Gate(alpha=0.4, resamples=10)
    for _ in range(1000):
        difficulty = rng.beta(0.5, 0.5, (100, 1))
        before, after = rng.random((2, 100, 4)) < difficulty
        promoted += decided(before, after, gate).decision == "promote"
    assert at_most(promoted, 1000, decided(before, after, gate).alpha) and promoted > 5


# Looks


@pytest.mark.parametrize(("limit", "tasks"), [(None, [200]), (100, [200]), (799, [200, 400]), (800, [200, 400, 800])])
def test_looks_double_the_tasks_up_to_the_limit(limit, tasks):
    assert [200 * look.scale for look in plan(most(200, limit))] == tasks


def test_another_look_costs_no_level():
    before, after = outcomes(0.5, 0), outcomes(0.6, 1)
    alone, among = decided(before, after), decided(before, after, look=Look(2, 3))
    assert alone.needed == among.needed and (among.look, among.looks) == (2, 3)
    assert "look 2 of 3" in among.reason and [look.last for look in plan(3)] == [False, False, True]


# Guards


def guarded(before, after, entry: Entry = FIRST, **settings):
    guarding = Guard(**settings)
    return guard.examine(
        "database", evaluation("a", before), evaluation("b", after), guarding, entry=entry, resamples=500
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


def test_a_guard_that_was_asked_before_needs_more():
    same = outcomes(0.8, 2)
    first, later = guarded(same, same), guarded(same, same, Entry(9, 2, 3, 2))
    assert first.evidence == later.evidence and first.needed < later.needed and first.bound > later.bound
    assert first.passed == (first.evidence >= first.needed)


@pytest.mark.parametrize(("tasks", "concentration"), [(200, 1.0), (200, 20.0), (60, 1.0)])
def test_a_challenger_that_is_worse_by_the_margin_passes_no_more_often_than_alpha(tasks, concentration):
    rng = np.random.default_rng(7)
    passed = 0
    guarding = Guard(margin=0.1, alpha=0.4)
    for _ in range(300):
        difficulty = rng.beta(0.8 * concentration, 0.2 * concentration, (tasks, 1))
        before = rng.random((tasks, 4)) < difficulty
        after = rng.random((tasks, 4)) < difficulty * (1 - 0.1 / 0.8)  # in the mean by 0.1 less
        pair = evaluation("a", before), evaluation("b", after)
        passed += guard.examine("database", *pair, guarding, entry=FIRST, resamples=10).passed
    assert at_most(passed, 300, of_entry(FIRST, 0.4))


def test_a_challenger_that_is_equal_passes_most_often():
    rng = np.random.default_rng(8)
    passed = 0
    for _ in range(60):
        difficulty = rng.beta(0.8, 0.2, (400, 1))
        before, after = rng.random((2, 400, 4)) < difficulty
        passed += guarded(before, after).passed
    assert passed > 48
