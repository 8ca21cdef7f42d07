"""Two iterations with everything that a campaign notes, followed back from the second adapter."""

import json
from pathlib import Path

import pytest
from made_by_hand import episode, sum_task

from agentloop.curation.scoring import score
from agentloop.curation.selection import select
from agentloop.errors import StoreError
from agentloop.records import Adapter, Evaluation, Interval, Policy, Verdict
from agentloop.settings import Selection
from agentloop.store import adapters, campaigns, champions, evaluations, policies, verdicts
from agentloop.store.ingest import ingest
from agentloop.store.lineage import lineage, story
from agentloop.store.shards import write_shard


@pytest.fixture
def history(database, tmp_path: Path) -> list[Adapter]:
    """Iteration 1 by the base on tasks 0 to 3, iteration 2 by the first adapter on tasks 4 to 7; both promoted."""
    made: list[Adapter] = []
    heldout = tuple(sum_task(n, "heldout").id for n in (50, 51))
    for iteration in (1, 2):
        champion = made[-1].id if made else None
        policy = Policy("base_1", champion, "plain/1")
        where = {"campaign": "main", "iteration": iteration}
        campaigns.begin_iteration(database, **where, champion=champion)
        policies.save(database, policy)
        numbers = range(4 * (iteration - 1), 4 * iteration)
        path = tmp_path / "data" / "shards" / f"{iteration}.parquet"
        write_shard(
            path,
            [
                episode(sum_task(n), sample, answer="" if sample else None, policy=policy.id)
                for n in numbers
                for sample in range(2)
            ],
            purpose="collect",
            **where,
        )
        ingest(database, [path])
        score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
        dataset = select(database, "rejection", "main", iteration, Selection()).dataset
        adapter = Adapter("base_1", dataset.id, {"rank": 16}, seed=0, code="1")
        adapters.save(database, adapter, path=tmp_path / "data" / "adapters" / adapter.id, **where)
        challenger = Policy("base_1", adapter.id, "plain/1")
        policies.save(database, challenger)
        before = Evaluation(policy.id, heldout, 1, 0, ((iteration == 2,), (False,)))
        after = Evaluation(challenger.id, heldout, 1, 0, ((True,), (iteration == 2,)))
        evaluations.save(database, before, **where, role="champion")
        evaluations.save(database, after, **where, role="challenger")
        gain = Interval(0.5, 0.4, 0.6)
        verdict = verdicts.save(
            database,
            Verdict("promote", before.id, after.id, gain, gain, gain, 0.001, "better"),
            **where,
            adapter=adapter.id,
        )
        champions.promote(database, "main", adapter.id, iteration=iteration, verdict=verdict)
        campaigns.finish_iteration(database, "main", iteration)
        made.append(adapter)
    return made


def test_an_adapter_is_traced_to_its_rows_and_forward_to_its_verdict(database, history):
    first, second = history
    story = lineage(database, second.id)
    json.dumps(story)
    assert (story["base"], story["settings"], story["code"], story["parent"]) == ("base_1", {"rank": 16}, "1", None)
    assert story["dataset"]["id"] == second.dataset and story["dataset"]["rows"] == 8
    assert {source["adapter"]: (source["rows"], source["tasks"]) for source in story["sources"]} == {
        None: (4, 4),
        first.id: (4, 4),
    }
    assert [(use["campaign"], use["iteration"], use["role"], use["funnel"][-1]) for use in story["uses"]] == [
        ("main", 2, "challenger", ["no near duplicate", 8])
    ]
    assert [(e["role"], e["success"]) for e in story["evaluations"]] == [("challenger", 1.0)]
    assert [(v["decision"], v["difference"]["low"]) for v in story["verdicts"]] == [("promote", 0.4)]
    assert [reign["iteration"] for reign in story["champion"]] == [2]
    assert list(story["ancestors"]) == [first.id]
    assert story["ancestors"][first.id]["sources"] == [
        {"policy": Policy("base_1", None, "plain/1").id, "adapter": None, "base": "base_1", "rows": 4, "tasks": 4}
    ]


def test_every_row_of_an_adapter_is_in_the_view(database, history):
    rows = database.execute(
        "SELECT trajectory, source, shard FROM v_lineage WHERE adapter = ? ORDER BY position", [history[1].id]
    )
    assert len(rows) == 8
    assert {(source, shard) for _, source, shard in rows} == {
        (None, "shards/1.parquet"),
        (history[0].id, "shards/2.parquet"),
    }


def test_a_continued_adapter_carries_its_parent(database, history):
    first, second = history
    child = Adapter("base_1", second.dataset, {"rank": 16}, seed=1, code="1", parent=second.id)
    adapters.save(database, child, path=database.path.parent / "adapters" / child.id, campaign="main", iteration=3)
    assert lineage(database, child.id)["parent"] == lineage(database, second.id)
    alone = story(database, child.id)
    assert alone["parent"] == {"adapter": second.id} and "ancestors" not in alone
    assert alone["dataset"] == lineage(database, child.id)["dataset"]


def test_iterations_are_one_line_each(database, history):
    lines = database.execute(
        "SELECT iteration, champion, tasks, trajectories, success, rows, adapter, decision, difference.estimate, "
        "finished IS NOT NULL FROM v_iterations"
    )
    first, second = history
    assert lines == [
        (1, None, 4, 8, 0.5, 4, first.id, "promote", 0.5, True),
        (2, first.id, 4, 8, 0.5, 8, second.id, "promote", 0.5, True),
    ]


def test_an_unknown_adapter_is_named(database):
    with pytest.raises(StoreError, match="no adapter adapter_0"):
        lineage(database, "adapter_0")
