"""Whole lives of a campaign, as benchmarks/simulate_gate.py plays them: how often the gate is ever wrong."""

import numpy as np
import pytest
import simulate_gate

from agentloop.evaluation import power
from agentloop.settings import Gate

CAMPAIGNS = 300


@pytest.fixture
def short(monkeypatch):
    """Lives of 120 nights at a level that a few hundred of them can tell from others."""
    monkeypatch.setattr(simulate_gate, "GATE", Gate(alpha=0.3))
    monkeypatch.setattr(simulate_gate, "NIGHTS", 120)
    monkeypatch.setattr(simulate_gate, "LOOKS", (50, 100))


def ever(**kind: bool) -> float:
    first, _ = simulate_gate.null_campaigns(np.random.default_rng(3), CAMPAIGNS, **kind)
    return float((first > 0).mean())


@pytest.mark.parametrize("fresh", [False, True])
def test_a_life_of_null_nights_promotes_no_more_often_than_alpha(short, fresh):
    assert 0 < ever(before=False, fresh=fresh) <= 0.3


@pytest.mark.parametrize("fresh", [False, True])
def test_the_same_lives_tell_a_rule_whose_levels_add_up(short, fresh):
    assert ever(before=True, fresh=fresh) > 0.4


def test_the_simulation_passes_over_nothing_that_would_be_promoted(short):
    """It computes the evidence only where a bound leaves room for it."""
    outcomes = power.drawn(np.random.default_rng(1), 0.05, 400, 100, simulate_gate.SAMPLES)
    reached = power.courses(outcomes, simulate_gate.SAMPLES)[:, -1] >= 3
    assert 20 < reached.sum() < 380
    assert simulate_gate.promising(outcomes, 3.0)[reached].all()
