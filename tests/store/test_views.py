"""Views: what they hold, and that each is documented with its columns."""

import re
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import score
from agentloop.project import CHECKOUT
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard

COLUMNS = """
    SELECT c.table_name, c.column_name, c.comment
    FROM duckdb_columns() c JOIN duckdb_views() v ON v.view_name = c.table_name
    WHERE NOT v.internal ORDER BY c.table_name, c.column_index
"""


def test_every_view_and_column_has_a_comment(database):
    views = database.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    assert len(views) > 15
    assert [name for name, comment in views if not comment] == []
    assert [(view, column) for view, column, comment in database.execute(COLUMNS) if not comment] == []


def test_the_documentation_has_the_columns_of_every_view(database):
    documented = {
        view: columns.split(", ")
        for view, columns in re.findall(
            r"^\| `(v_\w+)` \| [^|]+ \| ([^|]+) \|$", (CHECKOUT / "docs" / "data.md").read_text(), re.MULTILINE
        )
    }
    columns: dict[str, list[str]] = {}
    for view, column, _ in database.execute(COLUMNS):
        columns.setdefault(view, []).append(column)
    assert documented == columns


def test_tokens_are_read_from_the_shards(database, collected):
    path = database.path
    database.close()
    wanted = collected[3]
    with Database.open(path, read_only=True) as reader:
        (row,) = reader.execute("SELECT token_ids, mask, logprobs FROM v_tokens WHERE trajectory = ?", [wanted.id])
        spans = reader.execute(
            "SELECT role, token_ids, mask, logprobs FROM v_spans WHERE trajectory = ? ORDER BY position", [wanted.id]
        )
    whole = (wanted.token_ids, wanted.mask, wanted.logprobs)
    assert tuple(map(tuple, row)) == whole
    assert [span[0] for span in spans] == [turn.role for turn in wanted.turns]
    for turn, (_, *lists) in zip(wanted.turns, spans, strict=True):
        assert [tuple(each) for each in lists] == [each[turn.start : turn.end] for each in whole]


def test_without_shards_there_are_no_tokens(database):
    assert database.execute("SELECT * FROM v_tokens") == []


@pytest.fixture
def judged(database, tmp_path: Path):
    """One task: two samples that did the same, one that failed at its tool, and one of another policy."""
    episodes = [
        episode(sum_task(1), 0),
        episode(sum_task(1), 1),
        episode(sum_task(1), 2, answer="9", error="no"),
        episode(sum_task(1), 0, policy="policy_other"),
    ]
    write_shard(tmp_path / "a.parquet", episodes, purpose="collect", campaign="main", iteration=1)
    ingest(database, [tmp_path / "a.parquet"])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    return episodes


def test_novelty_is_within_the_samples_of_one_policy(database, judged):
    copies = dict(database.execute("SELECT trajectory, copies FROM v_novelty"))
    assert [copies[trajectory.id] for trajectory in judged] == [2, 2, 1, 1]


def test_a_reward_is_success_less_its_cost(database, judged):
    rewards = {row[0]: row[1:] for row in database.execute("FROM v_rewards SELECT trajectory, success, reward")}
    for trajectory in judged:
        length = len(trajectory.token_ids) / trajectory.sampling.max_tokens
        expected = 0 if trajectory.answer == "9" else 1 - 0.1 * length
        assert rewards[trajectory.id] == (float(trajectory.answer == "2"), pytest.approx(expected))


def test_scores_are_the_newest(database, judged):
    score(database, lambda name: lambda task, answer: 0.25, version=2)
    assert set(database.execute("SELECT version, value FROM v_scores WHERE scorer = 'success'")) == {(2, 0.25)}
    assert database.execute("SELECT count(DISTINCT scorer) FROM v_scores") == [(4,)]
