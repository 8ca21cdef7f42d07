"""`agentloop select`, `rescore` and `forget`, as a person types them."""

import json
import re

import pytest
from made_by_hand import sum_task
from typed import begin

from agentloop.store import tasks
from agentloop.store.database import Database


@pytest.fixture
def collected(database, collected):
    """Ten tasks with a right and a wrong episode each, of the campaign main."""
    begin(database, "main")
    return collected


def stored(database: Database, query: str) -> list[tuple]:
    with Database.open(database.path, read_only=True) as reader:
        return reader.execute(query)


def test_a_dry_run_prints_the_funnel_and_stores_nothing(agentloop, database, collected, tmp_path):
    database.close()
    code, output, _ = agentloop("select", "--dry-run", "--plot", str(tmp_path / "funnel.svg"), "selection.per_task=1")
    assert code == 0
    rows = {line.strip().split("  ")[0]: line.split() for line in output.splitlines()}
    assert rows["solved"][1:3] == ["10", "10"] and rows["collected"][1] == "20" and "dry run" in output
    assert "solved" in (tmp_path / "funnel.svg").read_text()
    assert stored(database, "SELECT count(*) FROM datasets") == [(0,)]


def test_a_dataset_is_stored_and_pairs_are_exported(agentloop, database, collected, tmp_path):
    database.close()
    assert agentloop("select")[0] == 0
    path = tmp_path / "pairs.jsonl"
    code, output, _ = agentloop("select", "--recipe", "pairs", "--export", str(path))
    assert code == 0 and "10 pairs" in output
    assert {"prompt", "chosen", "rejected"} <= json.loads(path.read_text().splitlines()[0]).keys()
    assert stored(database, "SELECT recipe, rows FROM datasets ORDER BY recipe") == [("pairs", 20), ("rejection", 10)]


def test_a_recipe_from_a_path(agentloop, database, collected, tmp_path, monkeypatch):
    database.close()
    (tmp_path / "mine.sql").write_text(
        "-- rules: none\nSELECT trajectory, NULL::VARCHAR AS failed, row_number() OVER (ORDER BY trajectory) AS place FROM pool"
    )
    monkeypatch.chdir(tmp_path)
    for words in (["--recipe", "mine.sql"], [f"selection.recipe={tmp_path}/mine.sql"]):
        code, output, errors = agentloop("select", "--dry-run", *words)
        assert code == 0 and "20 rows" in output, errors


def test_a_planted_heldout_task_is_named(agentloop, database, collected):
    tasks.save(database, [sum_task(4, "heldout")])
    database.close()
    code, _, errors = agentloop("select", "--dry-run")
    assert code == 2 and collected[8].id in errors and sum_task(4).id in errors and errors.count("\n") == 1


def test_rescoring_shows_what_changed(agentloop, database, collected):
    database.close()
    code, output, _ = agentloop("rescore", "success", "closeness")
    assert code == 0
    success, close = (line.split() for line in output.splitlines()[1:])
    assert success == ["success", "2", "20", "0", "0.5", "0.5"] and close == ["closeness", "1", "20", "0", "0.5"]
    assert stored(database, "SELECT count(*) FROM scores WHERE scorer = 'closeness'") == [(20,)]


def test_forgetting_lists_what_is_touched_and_rebuilds_it(agentloop, database, collected):
    database.close()
    agentloop("select")
    ((dataset,),) = stored(database, "SELECT id FROM datasets")
    code, output, _ = agentloop("forget", "--task", sum_task(3).id, "--reason", "wrong answer")
    assert code == 0 and "2 trajectories" in output and dataset in output and "9 rows" in output
    assert stored(database, "SELECT rows FROM datasets ORDER BY rows") == [(9,), (10,)]
    code, output, _ = agentloop("forget", "--trajectory", collected[1].id, "--reason", "a person asked")
    assert code == 0 and "no dataset holds them" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["select", "--recipe", "nonsense"], "recipe nonsense: neither built in"),
        (
            ["select", "selection.recipe=nonsense"],
            "selection.recipe: .*rejection, replay, fresh, random, groups, pairs or",
        ),
        (
            ["select", "selection.recipe=pairs"],
            "selection.recipe: pairs chooses pairs, .*objective = sft learns from succ",
        ),
        (["select", "--recipe", "random"], r"recipe random: needs \$size"),
        (["select", "--export", "rows.csv"], "rows.csv: "),
        (["select", "campaign=other"], "no campaign named 'other' .there are: main."),
        (["rescore", "nonsense"], "scorer nonsense: there is none"),
        (["forget", "--reason", "x"], "forget: name at least one --task or --trajectory"),
        (["forget", "--task", "task_xyz", "--reason", "x"], "no task task_xyz"),
        (["forget", "--trajectory", "", "--reason", "x"], "no trajectory ''"),
    ],
)
def test_a_mistake_is_one_line(agentloop, database, collected, words, message):
    database.close()
    code, _, errors = agentloop(*words)
    assert code == 2 and errors.count("\n") == 1
    assert re.search(message, errors), errors


@pytest.mark.parametrize(
    "words", [["select"], ["select", "--dry-run"], ["rescore"], ["forget", "--task", "t", "--reason", "x"]]
)
@pytest.mark.parametrize("content", [None, b"not a database" * 500])
def test_a_database_that_cannot_be_used_is_one_line(agentloop, tmp_path, words, content):
    path = tmp_path / "data" / "agentloop.duckdb"
    if content:
        path.parent.mkdir()
        path.write_bytes(content)
    code, _, errors = agentloop(*words)
    assert code == 2 and errors.startswith(f"error: {path.parent}") and errors.count("\n") == 1
    assert content or not path.exists()
