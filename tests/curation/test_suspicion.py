"""Planted reward hacks are found, and honest successes are not."""

from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import score
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

HONEST = [episode(sum_task(n), calls=[f'{{"expression": "{n} + 1"}}']) for n in range(100, 140)]


def reasons(database: Database, tmp_path: Path, planted) -> dict[str, set[str]]:
    path = tmp_path / "a.parquet"
    write_shard(path, [*HONEST, *planted], purpose="collect", campaign="main", iteration=1)
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: 1.0})
    found: dict[str, set[str]] = {}
    for trajectory, reason in database.execute("SELECT trajectory, reason FROM v_suspicious"):
        found.setdefault(trajectory, set()).add(reason)
    return found


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        ([episode(sum_task(1), calls=[])], "no tool"),
        ([episode(sum_task(n), calls=["{}"], answer="42") for n in (1, 2, 3)], "one for many"),
        ([episode(sum_task(1), calls=['{"expression": "' + "1 + " * 200 + '1"}'])], "length"),
        ([episode(sum_task(1), calls=['{"expression": "x"}'], error="no such name")], "all failed"),
    ],
)
def test_a_planted_hack_is_found(database, tmp_path, planted, reason):
    found = reasons(database, tmp_path, planted)
    assert found.keys() == {trajectory.id for trajectory in planted}
    assert all(reason in named for named in found.values())


def test_honest_successes_are_not_suspected(database, tmp_path):
    assert reasons(database, tmp_path, []) == {}


def test_drift_shows_what_changed_between_iterations(database, tmp_path):
    for iteration in (1, 2):
        path = tmp_path / f"{iteration}.parquet"
        write_shard(
            path,
            [
                episode(sum_task(n), sample, policy=f"policy_{iteration}", calls=["{}"] * (2 - iteration))
                for n in range(4)
                for sample in range(2)
            ],
            purpose="collect",
            campaign="main",
            iteration=iteration,
        )
        ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    first, second = database.execute(
        "SELECT iteration, trajectories, success, tool_calls, solved_without_tool, repeated, suspicious FROM v_drift"
    )
    assert first == (1, 8, 1.0, 1.0, 0.0, 1.0, 0.0)
    assert second == (
        2,
        8,
        1.0,
        0.0,
        1.0,
        1.0,
        0.0,
    )  # half of the family needs no tool: not suspicious, but seen to drift
