"""The gate's power as it is told to a user is that of the committed simulation, and what it says is what the gate does."""

import json
from math import sqrt

import pytest

from agentloop.evaluation import level
from agentloop.evaluation.power import MOST, TRIALS, power
from agentloop.project import CHECKOUT
from agentloop.records import Entry

SIMULATED = json.loads((CHECKOUT / "benchmarks" / "results" / "gate.json").read_text(encoding="utf-8"))
NEEDED = level.needed(Entry(), level.CHALLENGERS * SIMULATED["alpha"])


@pytest.mark.parametrize("points", ["2", "5", "10"])
@pytest.mark.parametrize("tasks", [200, 800])
def test_it_is_that_of_the_simulation(points, tasks):
    simulated = SIMULATED["gains"][points]["nights"]["1"]
    assert simulated["evidence_needed"] == pytest.approx(NEEDED)
    found = power(int(points) / 100, tasks=tasks, samples=SIMULATED["samples"], needed=NEEDED)
    share = simulated["promoted"][str(tasks)]
    # four standard errors of both samples
    error = 4 * sqrt(max(share * (1 - share), 0.005) * (1 / TRIALS + 1 / SIMULATED["trials"]))
    assert found.promoted == pytest.approx(share, abs=error)
    if simulated["tasks_for_80_percent"] is None:
        assert found.tasks is None
    else:
        assert found.tasks == pytest.approx(simulated["tasks_for_80_percent"], rel=0.1)


def test_without_a_gain_hardly_anything_is_promoted():
    assert power(0.0, tasks=MOST, samples=4, needed=NEEDED).promoted <= 2 / NEEDED + 0.01


def test_more_samples_and_a_lower_bar_find_more():
    few = power(0.05, tasks=200, samples=1, needed=NEEDED).promoted
    many = power(0.05, tasks=200, samples=16, needed=NEEDED).promoted
    assert few < 0.1 < 0.5 < many
    assert power(0.05, tasks=400, samples=4, needed=NEEDED, min_gain=0.04).promoted < 0.1
