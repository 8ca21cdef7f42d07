from pathlib import Path

import numpy as np
import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import score
from agentloop.errors import StoreError
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard


def exact(task, answer):
    return float(answer == task.answer)


def collect(database, tmp_path: Path, episodes, campaign: str = "main") -> None:
    path = tmp_path / f"{campaign}.parquet"
    write_shard(path, episodes, purpose="collect", campaign=campaign, iteration=1)
    ingest(database, [path])


def values(database, scorer: str, version: int = 1) -> dict[str, float]:
    return dict(
        database.execute("SELECT trajectory, value FROM scores WHERE scorer = ? AND version = ?", [scorer, version])
    )


def test_every_trajectory_gets_every_score_once(database, tmp_path):
    right, wrong = episode(sum_task(1)), episode(sum_task(2), answer="9", error="no")
    silent = episode(sum_task(3), answer="", calls=["{}", "{}"])
    collect(database, tmp_path, [right, wrong, silent])
    counts = score(database, {"arithmetic": exact})
    assert set(counts.values()) == {3}
    assert values(database, "success") == {right.id: 1, wrong.id: 0, silent.id: 0}
    assert values(database, "turns") == {right.id: 2, wrong.id: 2, silent.id: 3}
    assert values(database, "tool_errors") == {right.id: 0, wrong.id: 1, silent.id: 0}
    assert values(database, "tokens") == {t.id: sum(t.mask) for t in (right, wrong, silent)}
    assert set(score(database, {"arithmetic": exact}).values()) == {0}


def test_a_new_version_scores_again_and_readers_take_the_newest(database, tmp_path):
    right = episode(sum_task(1))
    collect(database, tmp_path, [right])
    score(database, {"arithmetic": exact})
    counts = score(database, lambda name: lambda task, answer: 0.25, version=2)
    assert counts == {"success": 1, "tokens": 0, "tool_errors": 0, "turns": 0}
    assert values(database, "success") == {right.id: 1}
    assert database.execute("SELECT success, version FROM v_success") == [(0.25, 2)]


def test_an_answer_is_verified_once_and_never_a_missing_one(database, tmp_path):
    seen = []

    def verify(task, answer):
        seen.append((task, answer))
        return 1.0

    collect(database, tmp_path, [episode(sum_task(1), n) for n in range(4)] + [episode(sum_task(1), 9, answer="")])
    score(database, {"arithmetic": verify})
    assert seen == [(sum_task(1), "2")]
    assert sorted(values(database, "success").values()) == [0, 1, 1, 1, 1]


def test_a_campaign_can_be_scored_alone(database, tmp_path):
    collect(database, tmp_path, [episode(sum_task(1))])
    collect(database, tmp_path, [episode(sum_task(2))], campaign="other")
    assert score(database, {"arithmetic": exact}, campaign="other")["success"] == 1
    assert set(values(database, "tokens")) == set(values(database, "success")) == {episode(sum_task(2)).id}


def test_an_environment_without_a_verifier_is_named(database, tmp_path):
    collect(database, tmp_path, [episode(sum_task(1))])
    with pytest.raises(StoreError, match="'arithmetic'"):
        score(database, {"sql": exact})
    assert database.execute("SELECT count(*) FROM scores") == [(0,)]


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan"), None, "1.0", [1], 10**400])
def test_a_verifier_that_gives_no_score_is_one_line(database, tmp_path, value):
    collect(database, tmp_path, [episode(sum_task(1))])
    with pytest.raises(StoreError, match="^environment 'arithmetic': its verifier: says [^\n]+ of '2' to task_[^\n]*$"):
        score(database, {"arithmetic": lambda task, answer: value})
    assert database.execute("SELECT count(*) FROM scores") == [(0,)]


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(2), RecursionError(), ValueError("a\nb")])
def test_a_verifier_that_fails_is_one_line(database, tmp_path, error):
    def fail(task, answer):
        raise error

    collect(database, tmp_path, [episode(sum_task(1))])
    with pytest.raises(
        StoreError, match=f"^environment 'arithmetic': its verifier: {type(error).__name__}[^\n]* at '2' to"
    ):
        score(database, {"arithmetic": fail})
    assert database.execute("SELECT count(*) FROM scores") == [(0,)]


@pytest.mark.parametrize("value", [True, 1, 0.5, np.float32(0.25), np.bool_(False)])
def test_scores_of_any_kind_of_number(database, tmp_path, value):
    collect(database, tmp_path, [episode(sum_task(1))])
    score(database, {"arithmetic": lambda task, answer: value})
    assert database.execute("SELECT value FROM scores WHERE scorer = 'success'") == [(float(value),)]


def test_groups_and_advantages(database, tmp_path):
    answers = ["2", "2", "2", "7"]
    varied = [episode(sum_task(1), n, answer=answer, calls=["{}"] * (1 + n % 2)) for n, answer in enumerate(answers)]
    certain = [episode(sum_task(2), n) for n in range(2)]
    collect(database, tmp_path, varied + certain)
    score(database, {"arithmetic": exact})
    groups = database.execute("SELECT samples, mean, variance, actions FROM v_groups ORDER BY samples")
    assert groups == [(2, 1.0, 0.0, 1), (4, 0.75, pytest.approx(0.25), 3)]
    advantages = dict(database.execute("SELECT trajectory, advantage FROM v_advantages"))
    assert advantages == pytest.approx(
        {t.id: 0.5 for t in varied[:3]} | {varied[3].id: -1.5} | {t.id: 0 for t in certain}
    )


def test_solved_tasks_and_tool_errors_by_iteration(database, tmp_path):
    collect(
        database,
        tmp_path,
        [episode(sum_task(1), 0), episode(sum_task(1), 1, answer="7", error="no", calls=["{}", "{}"])],
    )
    score(database, {"arithmetic": exact})
    assert database.execute("SELECT campaign, iteration, purpose, samples, solved, success FROM v_solved") == [
        ("main", 1, "collect", 2, 1, 0.5)
    ]
    assert database.execute("SELECT tool, error, times, trajectories FROM v_tool_errors") == [
        ("calculator", "no", 2, 1)
    ]
    assert database.execute("SELECT tool, arguments, result, error FROM v_tool_calls ORDER BY ALL") == [
        ("calculator", "{}", "2", None),
        ("calculator", "{}", "no", "no"),
        ("calculator", "{}", "no", "no"),
    ]
