"""Content names: those of today stay for ever, and a field that is added later renames nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agentloop import settings as configuration
from agentloop.evaluation.looks import Look
from agentloop.naming import content, content_id
from agentloop.records import (
    NF4,
    Adapter,
    Dataset,
    Evaluation,
    GuardResult,
    Interval,
    Policy,
    Sampling,
    Task,
    Verdict,
    trajectory_id,
)
from agentloop.rollout.collection import ShardPlan
from agentloop.settings import Evaluate, Gate, Guard, Paths, Selection, Training
from agentloop.training.run import TrainingRun

TASK = Task("arithmetic", "sum", "What is 1 + 2 · 3?", "7", "heldout", {"numbers": {"a": 1, "b": 2.5}})
POLICY = Policy("base_0123456789abcdef", None, "gemma-turns-1-bare")
SAMPLING = Sampling(temperature=0.7, max_tokens=256)
DATASET = Dataset(("traj_1", "traj_2"), "rejection", {"per_task": 2, "max_success_rate": 0.99, "sql": "abc"})
INTERVAL = Interval(0.5, 0.4, 0.6)
VERDICT = Verdict(
    "promote", "eval_a", "eval_b", INTERVAL, INTERVAL, INTERVAL, 0.001, "It is better.", 1, 2, 0.005,
    (GuardResult("database", "eval_c", "eval_d", INTERVAL, -0.01, 0.05),),
)  # fmt: skip


def planned(training: Training) -> Adapter:
    paths = Paths()
    plan = TrainingRun.plan(
        base=POLICY.base, dataset=DATASET.id, rows=Path("rows"), model=Path("model"), training=training,
        quantization=NF4, seed=3, paths=paths
    )  # fmt: skip
    return plan.adapter


def frozen() -> dict[str, str]:
    demo = configuration.load(["training.learning_rate=5e-4", "training.epochs=3"], profile="demo")
    gate = Gate(guards={"database": Guard(tasks=50)})
    return {
        "task": TASK.id,
        "policy of a base": POLICY.id,
        "policy of an adapter": replace(POLICY, adapter="adapter_1").id,
        "trajectory": trajectory_id(POLICY.id, TASK.id, 3, SAMPLING, 11),
        "shard": ShardPlan(POLICY.id, SAMPLING, 11, ((TASK, 0), (TASK, 1))).id,
        "dataset": DATASET.id,
        "adapter": planned(demo.training).id,
        "adapter, 8-bit optimizer": planned(Training(optimizer_bits=8)).id,
        "adapter with a parent": replace(planned(Training()), parent="adapter_1").id,
        "evaluation": Evaluation(POLICY.id, (TASK.id,), 2, 11, ((True, False),)).id,
        "verdict": content_id("verdict", ["demo", 1, "adapter_1", VERDICT]),
        "step select": content_id("step", ["demo", "select", 1, [Selection(benchmarks=Path("b.txt")), "abc", None]]),
        "step measure": content_id(
            "step", ["demo", "measure", 1, ["policy_1", "champion", Evaluate(), "heldout", 9, 4]]
        ),
        "step decide": content_id("step", ["demo", "decide", 1, [[["heldout", ["a", "b"]]], "c", gate, Look(1, 2)]]),
    }


NAMES = {
    "task": "task_31038bb56f57c2db",
    "policy of a base": "policy_827b0f89013b1ea5",
    "policy of an adapter": "policy_06a04d16354bba9b",
    "trajectory": "traj_ca51d45771b9b743",
    "shard": "shard_c59e05069707becc",
    "dataset": "data_c0298484ccd5358d",
    "adapter": "adapter_495ca0883db146e7",
    "adapter, 8-bit optimizer": "adapter_c17a0cec82414740",
    "adapter with a parent": "adapter_0e0a0858d7e4d52f",
    "evaluation": "eval_944147730253caa0",
    "verdict": "verdict_caa226f5f077ff6b",
    "step select": "step_78593ba9330b38fe",
    "step measure": "step_d2650c79ca1e0fb1",
    "step decide": "step_7100a05d7dfb18c0",
}


@pytest.mark.parametrize("what", NAMES)
def test_names_of_today_stay(what):
    assert frozen()[what] == NAMES[what]


def test_every_kind_is_frozen():
    assert frozen().keys() == NAMES.keys()


def test_a_setting_added_later_names_nothing_until_it_is_used():
    later = type("Training", (Training,), {"__annotations__": {"dropout": float}, "dropout": 0.0})
    assert content(later()) == content(Training())
    assert content(later(dropout=0.1)) == {**content(Training()), "dropout": 0.1}
    assert content(later(rank=32)) == content(Training(rank=32)) != content(Training())


def test_a_field_added_later_names_nothing_until_it_is_used():
    @dataclass(frozen=True)
    class Later(Sampling):
        min_p: float = 0.0

    Later.__name__ = "Sampling"
    names = {
        trajectory_id("policy_1", "task_1", 0, sampling, 0) for sampling in (Sampling(), Later(), Later(min_p=0.0))
    }
    assert len(names) == 1
    assert trajectory_id("policy_1", "task_1", 0, Later(min_p=0.1), 0) not in names


def test_a_setting_inside_a_mapping_follows_the_same_rule():
    later = type("Guard", (Guard,), {"__annotations__": {"weight": float}, "weight": 1.0})
    plain, grown, used = (
        Gate.model_construct(guards={"database": each}) for each in (Guard(), later(), later(weight=2))
    )
    assert content(plain) == content(grown) != content(used)
