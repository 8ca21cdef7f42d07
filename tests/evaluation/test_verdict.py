import dataclasses

import numpy as np
import pytest

from agentloop.evaluation.verdict import judge
from agentloop.records import Evaluation
from agentloop.settings import Gate


def evaluation(policy: str, successes) -> Evaluation:
    rows = tuple(tuple(bool(value) for value in row) for row in successes)
    return Evaluation(policy, tuple(f"task_{n}" for n in range(len(rows))), len(rows[0]), 0, rows)


def outcomes(rate: float, seed: int, tasks: int = 200, samples: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).random((tasks, samples)) < rate


def test_a_clear_gain_is_promoted():
    verdict = judge(evaluation("a", outcomes(0.35, 0)), evaluation("b", outcomes(0.75, 1)), Gate())
    assert verdict.decision == "promote"
    assert verdict.mcnemar_p < 1e-10
    assert 0.3 < verdict.difference.low < verdict.difference.estimate < verdict.difference.high < 0.5
    assert verdict.champion_success.high < verdict.challenger_success.low
    assert verdict.reason.startswith("Promoted: +") and "\n" not in verdict.reason
    assert (verdict.champion, verdict.challenger) == (
        evaluation("a", outcomes(0.35, 0)).id,
        evaluation("b", outcomes(0.75, 1)).id,
    )


def test_a_clear_loss_is_not():
    verdict = judge(evaluation("a", outcomes(0.75, 0)), evaluation("b", outcomes(0.35, 1)), Gate())
    assert verdict.decision == "keep" and verdict.mcnemar_p < 1e-10


def test_the_same_is_not():
    same = outcomes(0.5, 0)
    verdict = judge(evaluation("a", same), evaluation("b", same), Gate())
    assert verdict.decision == "keep"
    assert (
        verdict.mcnemar_p == 1 and verdict.difference.estimate == verdict.difference.low == verdict.difference.high == 0
    )


def test_a_gain_below_the_one_asked_for_is_not():
    before, after = outcomes(0.35, 0), outcomes(0.5, 1)
    assert judge(evaluation("a", before), evaluation("b", after), Gate(min_gain=0.0)).decision == "promote"
    assert judge(evaluation("a", before), evaluation("b", after), Gate(min_gain=0.3)).decision == "keep"


def test_a_promising_gain_on_few_tasks_asks_for_more():
    before = np.zeros((10, 1), bool)
    after = before.copy()
    after[:5] = True
    verdict = judge(evaluation("a", before), evaluation("b", after), Gate(alpha=0.01))
    assert verdict.decision == "needs_more_data"
    assert verdict.mcnemar_p == pytest.approx(2 / 32)
    assert "needs about" in verdict.reason


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 3}, {"tasks": tuple(f"task_{n}" for n in range(1, 201))}])
def test_other_tasks_samples_or_seeds_are_not_compared(change):
    champion = evaluation("a", outcomes(0.35, 0))
    challenger = dataclasses.replace(evaluation("b", outcomes(0.75, 1)), **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        judge(champion, challenger, Gate())


def test_no_policy_is_promoted_over_itself_more_often_than_alpha():
    promoted = 0
    rng = np.random.default_rng(3)
    for _ in range(300):
        difficulty = rng.beta(0.5, 0.5, (100, 1))
        before, after = rng.random((2, 100, 4)) < difficulty
        promoted += (
            judge(evaluation("a", before), evaluation("b", after), Gate(alpha=0.05, resamples=500)).decision
            == "promote"
        )
    assert promoted / 300 <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 300)  # one side of the two-sided level
