"""Adapters, evaluations, verdicts, champions and what else a flow notes on its way."""

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.errors import StoreError
from agentloop.records import Adapter, Evaluation, Interval, Sampling, Score, Verdict
from agentloop.store import adapters, canaries, champions, evaluations, gpu_phases, tasks, training_runs, verdicts
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

FIRST = {"campaign": "main", "iteration": 1}
ADAPTER = Adapter("base_1", "data_1", {"rank": 16, "targets": ["q_proj"]}, seed=3, code="1", parent=None)


def verdict(decision: str = "promote") -> Verdict:
    return Verdict(
        decision,
        "eval_1",
        "eval_2",
        Interval(0.3, 0.2, 0.4),
        Interval(0.6, 0.5, 0.7),
        Interval(0.3, 0.2, 0.4),
        1e-6,
        "better by 30 points",
    )


def test_adapters_come_back(database):
    path = database.path.parent / "adapters" / ADAPTER.id
    for _ in range(2):
        adapters.save(database, ADAPTER, path=path, **FIRST)
    assert adapters.load(database, ADAPTER.id) == ADAPTER
    assert adapters.directory(database, ADAPTER.id) == path
    assert database.execute("SELECT * FROM candidates") == [("main", 1, "challenger", ADAPTER.id)]
    with pytest.raises(StoreError, match="no adapter adapter_0"):
        adapters.load(database, "adapter_0")


def test_verdicts_come_back(database):
    name = verdicts.save(database, verdict(), **FIRST, adapter=ADAPTER.id)
    assert verdicts.save(database, verdict(), **FIRST, adapter=ADAPTER.id) == name
    assert verdicts.load(database, name) == verdict()
    with pytest.raises(StoreError, match="no verdict verdict_0"):
        verdicts.load(database, "verdict_0")


def test_the_champion_moves_only_on_a_promotion(database):
    assert champions.champion(database, "main") is None
    kept = verdicts.save(database, verdict("keep"), **FIRST, adapter="adapter_1")
    with pytest.raises(StoreError, match="keep"):
        champions.promote(database, "main", "adapter_1", iteration=1, verdict=kept)
    promoted = verdicts.save(database, verdict(), **FIRST, adapter="adapter_1")
    with pytest.raises(StoreError, match="adapter_1"):
        champions.promote(database, "main", "adapter_2", iteration=1, verdict=promoted)
    for _ in range(2):
        champions.promote(database, "main", "adapter_1", iteration=1, verdict=promoted)
    assert champions.champion(database, "main") == "adapter_1"
    assert champions.champion(database, "other") is None
    assert champions.history(database, "main") == [(1, "adapter_1", "better by 30 points")]


def test_a_rollback_is_an_entry_of_the_history(database):
    for iteration in (1, 2):
        name = verdicts.save(database, verdict(), campaign="main", iteration=iteration, adapter=f"adapter_{iteration}")
        champions.promote(database, "main", f"adapter_{iteration}", iteration=iteration, verdict=name)
    with pytest.raises(StoreError, match="never champion"):
        champions.rollback(database, "main", "adapter_9", reason="regret")
    with pytest.raises(StoreError, match="already"):
        champions.rollback(database, "main", "adapter_2", reason="regret")
    champions.rollback(database, "main", "adapter_1", reason="regret")
    assert champions.champion(database, "main") == "adapter_1"
    champions.rollback(database, "main", None, reason="more regret")
    assert champions.champion(database, "main") is None
    assert [entry[1] for entry in champions.history(database, "main")] == ["adapter_1", "adapter_2", "adapter_1", None]


@pytest.fixture
def measured(database, tmp_path: Path):
    """Two tasks with two samples each, of which the database scores three as solved."""
    heldout = [sum_task(n, "heldout") for n in range(2)]
    episodes = [episode(task, sample, seed=5) for task in heldout for sample in range(2)]
    write_shard(tmp_path / "a.parquet", episodes, purpose="evaluate", **FIRST)
    ingest(database, [tmp_path / "a.parquet"])
    for number, trajectory in enumerate(episodes):
        for score in (Score(trajectory.id, "success", 1, 0.0), Score(trajectory.id, "success", 2, float(number != 2))):
            database.execute("INSERT INTO scores VALUES (?, ?, ?, ?)", dataclasses.astuple(score))
    return heldout, episodes


def test_an_evaluation_is_made_from_stored_scores(database, measured):
    heldout, episodes = measured
    plan = {"policy": "policy_base", "tasks": [task.id for task in heldout], "seed": 5, "sampling": Sampling()}
    evaluation = evaluations.measure(database, **plan, samples=2)
    assert evaluation.successes == ((True, True), (False, True))
    for _ in range(2):
        evaluations.save(database, evaluation, **FIRST, role="base")
    evaluations.save(database, evaluation, campaign="main", iteration=2, role="champion")
    assert evaluations.load(database, evaluation.id) == evaluation
    assert database.execute("SELECT tasks, samples, success FROM evaluations") == [(2, 2, 0.75)]
    with pytest.raises(StoreError, match="traj_"):
        evaluations.measure(database, **plan, samples=3)
    with pytest.raises(StoreError, match="other outcomes"):
        evaluations.save(
            database, dataclasses.replace(evaluation, successes=((True, True), (True, True))), **FIRST, role="base"
        )
    with pytest.raises(StoreError, match="no evaluation eval_0"):
        evaluations.load(database, "eval_0")


def test_flips_name_what_a_challenger_changed(database, measured):
    heldout, _ = measured
    names = tuple(task.id for task in heldout)
    before = Evaluation("policy_base", names, 2, 5, ((True, False), (False, True)))
    after = Evaluation("policy_new", names, 2, 5, ((True, True), (False, False)))
    for evaluation, role in ((before, "champion"), (after, "challenger")):
        evaluations.save(database, evaluation, **FIRST, role=role)
    judged = dataclasses.replace(verdict(), champion=before.id, challenger=after.id)
    verdicts.save(database, judged, **FIRST, adapter="adapter_1")
    flips = database.execute("SELECT question, sample, champion, challenger, flip FROM v_flips ORDER BY question")
    assert flips == [("0 + 1", 1, False, True, "gained"), ("1 + 1", 1, True, False, "lost")]


def test_a_heldout_task_stays_held_out(database):
    tasks.save(database, [])
    tasks.save(database, [sum_task(1), sum_task(2, "heldout")])
    tasks.save(database, [sum_task(1, "heldout"), sum_task(2)])
    assert [tasks.load(database, sum_task(n).id) for n in (1, 2)] == [sum_task(1, "heldout"), sum_task(2, "heldout")]
    with pytest.raises(StoreError, match="no task task_0"):
        tasks.load(database, "task_0")


def test_metrics_of_a_repeated_step_replace_the_earlier(database):
    training_runs.begin(database, ADAPTER.id, **FIRST, dataset="data_1")
    training_runs.log(database, ADAPTER.id, [{"step": step, "loss": 1.0 / step, "tokens": 100} for step in (1, 2, 3)])
    training_runs.log(database, ADAPTER.id, [{"step": step, "loss": 0.1} for step in (3, 4)])
    training_runs.finish(database, ADAPTER.id, seconds=12.5, tokens=400, resumed=1)
    training_runs.finish(database, ADAPTER.id, seconds=99.0, tokens=1)
    assert database.execute("SELECT step, value FROM training_metrics WHERE name = 'loss' ORDER BY step") == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.1),
        (4, 0.1),
    ]
    assert database.execute("SELECT seconds, tokens, resumed FROM training_runs") == [(12.5, 400, 1)]


def test_canaries_and_gpu_phases_are_noted(database):
    canaries.save(
        database,
        **FIRST,
        policy="policy_1",
        passed=True,
        tokens=40,
        mean_difference=1e-5,
        max_difference=1e-4,
        tolerance=1e-3,
    )
    assert database.execute("SELECT passed, max_difference FROM canaries") == [(True, 1e-4)]
    begin = datetime(2030, 1, 1, 12, tzinfo=UTC)
    gpu_phases.save(
        database, **FIRST, phase="train", started=begin, finished=begin + timedelta(seconds=90), peak_bytes=2**30
    )
    assert database.execute("SELECT epoch(finished - started), peak_bytes FROM gpu_phases") == [(90.0, 2**30)]
