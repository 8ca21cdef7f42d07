"""Objectives that learn from failures, in the whole loop: select, train, canary, gate."""

import json

import pytest
from home import Home, free_port

WIDE = (
    *("iterations=1", "collect.samples=8", "collect.tasks=48", "collect.shard_episodes=128", "gate.control=true"),
    "training.learning_rate=5e-4",
)


@pytest.fixture(scope="module", params=["grpo", pytest.param("dpo", marks=pytest.mark.slow)])
def learnt(request, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp(request.param), free_port())
    home.improve(f"training.objective={request.param}", *WIDE)
    yield request.param, home
    home.run("down")


def test_failures_are_learnt_from(learnt):
    objective, home = learnt
    recipe = {"grpo": "groups", "dpo": "pairs"}[objective]
    [(dataset, adapter, training)] = home.rows(
        f"SELECT d.id, a.id, a.training FROM datasets d JOIN adapters a ON a.dataset = d.id WHERE d.recipe = '{recipe}'"
    )
    training = json.loads(training)
    assert training["objective"] == objective and training[objective] and "sft" not in training
    rows = home.rows(
        f"SELECT r.trajectory, r.reward, s.success FROM dataset_rows r JOIN v_success s ON s.trajectory = r.trajectory "
        f"WHERE r.dataset = '{dataset}' ORDER BY r.position"
    )
    assert {success for _, _, success in rows} == {0.0, 1.0}
    if objective == "grpo":
        assert all(reward == success for _, reward, success in rows)
    else:
        assert all(
            (reward, success) == (None, float(place % 2 == 0)) for place, (_, reward, success) in enumerate(rows)
        )
    metrics = dict(
        home.rows(f"SELECT name, avg(value) FROM training_metrics WHERE adapter = '{adapter}' GROUP BY name")
    )
    assert metrics["entropy"] > 0 and metrics["nll"] > 0 and 0 <= metrics["kl"] < 1
    assert ("clipped" in metrics, "preferred" in metrics) == (objective == "grpo", objective == "dpo")


def test_stored_log_probabilities_are_the_trainers_own(learnt):
    """The base sampled, and training begins from it: nothing has diverged before the first step."""
    _, home = learnt
    [(first,)] = home.rows(
        "SELECT value FROM training_metrics m JOIN candidates c ON c.adapter = m.adapter "
        "WHERE c.role = 'challenger' AND name = 'kl' AND step = 1"
    )
    assert 0 <= first < 1e-6


def test_canary_and_gate_judge_it(learnt):
    _, home = learnt
    assert home.rows("SELECT count(*) FROM canaries WHERE passed AND max_difference < 1e-3")[0][0] >= 2
    assert [decision for (decision,) in home.rows("SELECT decision FROM verdicts")] != []


def test_the_control_learns_from_what_it_was_given_alike(learnt):
    _, home = learnt
    [(training,)] = home.rows(
        "SELECT a.training FROM adapters a JOIN candidates c ON c.adapter = a.id WHERE c.role = 'control'"
    )
    assert json.loads(training).get("objective", "sft") == "sft"


def test_it_is_made_again_bit_for_bit(learnt):
    _, home = learnt
    [(adapter,)] = home.rows("SELECT adapter FROM candidates WHERE role = 'challenger'")
    assert "the same weights" in home.run("reproduce", "--profile", "demo", adapter).replace("\n", " ").lower()
