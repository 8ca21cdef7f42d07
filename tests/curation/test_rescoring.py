"""New scorers and new versions over stored trajectories."""

from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import Rescored, rescore, score
from agentloop.curation.selection import select
from agentloop.curation.verifiers import closeness
from agentloop.errors import StoreError
from agentloop.settings import Selection
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard


def exact(task, answer):
    return float(answer == task.answer)


def lenient(task, answer):
    return 1.0


def test_a_new_verifier_scores_what_is_stored_and_what_comes_later(database, collected, tmp_path):
    assert rescore(database, {"arithmetic": lenient}, ["success"]) == [Rescored("success", 2, 20, 0, 0.5, 0.5)]
    wrong = [episode(sum_task(n), answer="9") for n in range(50, 54)]
    write_shard(tmp_path / "later.parquet", wrong, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "later.parquet"])
    score(database, {"arithmetic": exact})
    assert database.execute("SELECT DISTINCT version FROM v_success") == [(2,)]
    assert rescore(database, {"arithmetic": lenient}, ["success"]) == [
        Rescored("success", 3, 24, 4, pytest.approx(10 / 24), pytest.approx(14 / 24))
    ]
    assert len(select(database, "rejection", "main", 1, Selection(max_success_rate=1)).dataset.trajectories) == 14


def test_everything_built_in_by_default(database, collected):
    results = {result.scorer: result.scored for result in rescore(database, {"arithmetic": exact})}
    assert results == {"success": 20, "tokens": 0, "tool_errors": 0, "turns": 0}


def test_a_query_of_ones_own(database, collected, tmp_path):
    file = tmp_path / "short.sql"
    query = "-- version: {}\nSELECT id AS trajectory, tokens < {} AS value FROM trajectories  -- short"
    file.write_text(query.format(1, 10_000))
    assert rescore(database, {}, [str(file)]) == [Rescored("short", 1, 20, 0, None, 1.0)]
    assert rescore(database, {}, [str(file)]) == [Rescored("short", 1, 0, 0, None, None)]
    file.write_text(query.format(2, 1))
    assert rescore(database, {}, [str(file)]) == [Rescored("short", 2, 20, 20, 1.0, 0.0)]


def test_verifiers_are_registered_by_name(database, collected, tmp_path):
    (result,) = rescore(database, {}, ["closeness"])
    assert (result.version, result.scored, result.after) == (1, 20, 0.5)  # half of them have no answer
    file = tmp_path / "mine.py"
    file.write_text(
        "from agentloop.curation.verifiers import register\n"
        "@register('even', version=3)\ndef even(task, answer):\n    return int(answer) % 2 == 0\n"
        "@register('short')\ndef short(task, answer):\n    return len(answer) < 2\n"
    )
    results = {result.scorer: result for result in rescore(database, {}, [str(file)])}
    assert results == {"even": Rescored("even", 3, 20, 0, None, 0.25), "short": Rescored("short", 1, 20, 0, None, 0.45)}
    assert rescore(database, {}, ["even"])[0].scored == 0


REGISTER = "from agentloop.curation.verifiers import register\n"
QUERY = "-- version: 1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nonsense", None, "scorer nonsense: there is none .*closeness"),
        ("none.sql", None, "none.sql: no such file"),
        ("none.py", None, "none.py: no such file"),
        ("a.sql", "SELECT 1", "a.sql: its first line is not a comment '-- version: N'"),
        ("a.sql", f"{QUERY}SELECT id FROM nowhere", "a.sql: .*nowhere"),
        ("a.sql", f"{QUERY}SELECT id AS trajectory, NULL AS value FROM trajectories", "a.sql: .*NOT NULL"),
        (
            "a.sql",
            f"{QUERY}SELECT id AS trajectory, position AS value FROM trajectories, range(2)",
            "more than one value",
        ),
        ("success.sql", f"{QUERY}SELECT id AS trajectory, 1 AS value FROM trajectories", "success is taken"),
        ("a.py", "1 / 0", "a.py, line 1: ZeroDivisionError"),
        ("a.py", "x = 1", "a.py: registers no verifier"),
        (
            "a.py",
            f"{REGISTER}@register('tokens')\ndef a(task, answer):\n    return 1",
            "verifier tokens: the name is taken",
        ),
        (
            "a.py",
            f"{REGISTER}@register('a')\ndef a(task, answer):\n    return 2",
            "verifier a: says 2 of .* to task_",
        ),
        (
            "a.py",
            f"{REGISTER}@register('a')\ndef a(task, answer):\n    return task.x",
            "verifier a: AttributeError: .* to task_",
        ),
    ],
)
def test_a_scorer_that_cannot_be_used_is_named_and_nothing_is_scored(
    database, collected, tmp_path: Path, name, content, message
):
    before = database.execute("SELECT count(*) FROM scores")
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(StoreError, match=message) as refused:
        rescore(database, {"arithmetic": exact}, ["success", str(tmp_path / name) if "." in name else name])
    assert "\n" not in str(refused.value)
    assert database.execute("SELECT count(*) FROM scores") == before


@pytest.mark.parametrize(
    ("answer", "value"),
    [("42", 1), ("42.0", 1), ("21", 0.5), ("-42", 0), ("1e999", 0), ("nan", 0), ("forty-two", 0)],
)
def test_closeness_of_numbers(answer, value):
    assert closeness(sum_task(41), answer) == value
