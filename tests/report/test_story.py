"""The lineage of an adapter as people read it, against the database."""

import io
import json

import pytest
from recorded_campaign import CAMPAIGN, recorded  # noqa: F401  (a fixture)
from rich.console import Console

from agentloop.report import story
from agentloop.store import champions, datasets, evaluations
from agentloop.store.database import Database
from agentloop.store.lineage import lineage, rows


@pytest.fixture
def database(recorded):
    with Database.open(recorded.database, read_only=True) as database:
        yield database


@pytest.fixture
def champion(database):
    return champions.champion(database, CAMPAIGN)


def shown(tree) -> str:
    console = Console(width=400, file=io.StringIO())
    console.print(tree)
    return console.file.getvalue()


def test_all_that_made_an_adapter_and_became_of_it_is_told(database, champion):
    text = shown(story.tree(lineage(database, champion)))
    (base, dataset, seed, code, recipe, iteration), *_ = database.execute(
        """
        SELECT a.base, a.dataset, a.seed, a.code, d.recipe, c.iteration
        FROM adapters a JOIN datasets d ON d.id = a.dataset JOIN candidates c ON c.adapter = a.id WHERE a.id = ?
        """,
        [champion],
    )
    trained_on = len(datasets.load(database, dataset).trajectories)
    assert f"challenger of iteration {iteration} of campaign {CAMPAIGN}" in text
    assert base in text and f"{dataset}: {trained_on:,} rows by recipe {recipe}" in text
    assert "per_task 2" in text and "learning_rate 0.0002" in text and f"{seed}, version {code}" in text
    ((funnel,),) = database.execute(
        "SELECT funnel FROM selections WHERE dataset = ? AND iteration = ?", [dataset, iteration]
    )
    assert story.funnel_text(json.loads(funnel)) in text
    sources = database.execute(
        "SELECT policy, source, count(*) FROM v_lineage WHERE adapter = ? GROUP BY ALL", [champion]
    )
    assert len(sources) > 1 and {None} < {source for _, source, _ in sources}
    for policy, source, count in sources:
        assert f"{source or 'base model'}: {count:,} rows of" in text and policy in text
    for name, reason in database.execute("SELECT challenger, reason FROM verdicts WHERE adapter = ?", [champion]):
        measured = evaluations.load(database, name)
        share = sum(map(sum, measured.successes)) / (len(measured.tasks) * measured.samples)
        assert f"{100 * share:.1f} % of {len(measured.tasks)} tasks" in text and name in text and reason in text
    assert "Champion     since" in text and "31.5 s" in text


def test_the_adapters_behind_its_rows_are_told_too(database, champion):
    told = lineage(database, champion)
    text = shown(story.tree(told))
    assert told["ancestors"]
    for name, ancestor in told["ancestors"].items():
        assert name in text and ancestor["dataset"]["id"] in text
    json.dumps(told)


def test_a_continued_adapter_shows_its_parent(database, champion):
    told = lineage(database, champion)
    child = told | {"adapter": "adapter_child", "parent": told, "ancestors": {}}
    text = shown(story.tree(child))
    assert f"Started from {champion}" in text and text.index("adapter_child") < text.index("It continued")


def test_every_row_is_listed(database, champion):
    listed = rows(database, champion)
    dataset = datasets.load(database, lineage(database, champion)["dataset"]["id"])
    assert [row["trajectory"] for row in listed] == list(dataset.trajectories)
    assert all(row["question"] and row["policy"] and row["shard"] for row in listed)
