"""The clock is set back in the middle of a campaign: what came last still counts as last."""

import dataclasses
import shutil

import pytest

from agentloop import settings as configuration
from agentloop.records import Adapter, Interval, Verdict
from agentloop.report import query, summary
from agentloop.store import adapters, campaigns, champions, verdicts
from agentloop.store.database import Database
from agentloop.store.ledger import Ledger
from agentloop.store.schema import MIGRATIONS

HALF = Interval(0.5, 0.4, 0.6)
FIRST = Verdict("needs_more_data", "eval_1", "eval_2", HALF, HALF, HALF, 0.2, "not clear", 1, 2, 0.005)
LAST = dataclasses.replace(FIRST, decision="promote", look=2, mcnemar_p=0.001, reason="better")
ABOUT = {"campaign": "main", "iteration": 1}
CLOCK_BACK = "INTERVAL 1 HOUR"


def judge(database: Database, verdict: Verdict, adapter: str, *, hours_back: int = 0) -> str:
    name = verdicts.save(database, verdict, **ABOUT, adapter=adapter)
    database.execute(f"UPDATE verdicts SET judged = judged - INTERVAL {hours_back} HOUR WHERE id = ?", [name])
    return name


def standing(database: Database) -> list[tuple]:
    return database.execute("SELECT decision, reason FROM v_verdicts")


def test_the_last_look_stands(database):
    adapter = Adapter("base_1", "data_1", {}, 0, "1")
    campaigns.begin_iteration(database, "main", 1, champion=None)
    adapters.save(database, adapter, path=database.path.parent / "a", **ABOUT)
    judge(database, FIRST, adapter.id)
    judge(database, LAST, adapter.id, hours_back=1)
    assert standing(database) == [("promote", "better")]
    assert database.execute("SELECT decision FROM v_iterations") == [("promote",)]
    assert [row["look"] for row in query.rows(database, "looks", campaign="main")] == [1, 2]


def test_a_contest_that_is_held_again_stands(database):
    """After a rollback, in an iteration that is run again: its only look comes after the two looks of before."""
    judge(database, FIRST, "adapter_1")
    judge(database, LAST, "adapter_1")
    judge(
        database,
        dataclasses.replace(FIRST, decision="keep", champion="eval_3", reason="again"),
        "adapter_1",
        hours_back=1,
    )
    assert standing(database) == [("keep", "again")]


def test_rows_of_before_there_were_numbers(tmp_path, monkeypatch):
    older = tmp_path / "older"
    older.mkdir()
    for file in MIGRATIONS.glob("000[1-7]_*.sql"):
        shutil.copy(file, older)
    path = tmp_path / "data" / "agentloop.duckdb"
    with monkeypatch.context() as then:
        then.setattr("agentloop.store.schema.MIGRATIONS", older)
        with Database.open(path) as database:
            for policy, adapter in (("policy_1", "NULL"), ("policy_3", "'adapter_0'")):
                database.execute(f"INSERT INTO policies VALUES ('{policy}', 'base_1', {adapter}, 'prompt')")
            for name, policy in (("eval_1", "policy_1"), ("eval_1b", "policy_1"), ("eval_3", "policy_3")):
                database.execute(
                    "INSERT INTO evaluations VALUES (?, ?, 0, 10, 1, 0.5, TIMESTAMP '2026-01-01')", [name, policy]
                )
            looks = [
                ("first", "adapter_1", "eval_1", 1, "2026-01-02 10:00"),
                ("last", "adapter_1", "eval_1b", 2, "2026-01-02 09:30"),  # the clock went back
                ("before", "adapter_2", "eval_1", 2, "2026-01-02 12:00"),
                ("again", "adapter_2", "eval_3", 1, "2026-01-03 12:00"),  # against another champion
            ]
            for name, adapter, champion, look, judged in looks:
                database.execute(
                    """
                    INSERT INTO verdicts
                    SELECT $name, 'main', 1, $adapter, 'keep', $champion, 'eval_2', half, half, half, 0.2, $name, $judged,
                           $look, 2, 0.005
                    FROM (SELECT {'estimate': 0.5, 'low': 0.4, 'high': 0.6} AS half)
                    """,
                    {"name": name, "adapter": adapter, "champion": champion, "look": look, "judged": judged},
                )
            for campaign, hour in (("b", 3), ("a", 2)):
                database.execute(
                    "INSERT INTO campaigns VALUES (?, '{}', '{}', make_timestamp(2026, 1, 1, ?, 0, 0.0), now()::TIMESTAMP)",
                    [campaign, hour],
                )
            database.execute("INSERT INTO iterations VALUES ('main', 1, NULL, '2026-01-01', '2026-01-02')")
            for number, day in ((1, 1), (2, 3)):
                database.execute(
                    "INSERT INTO champions VALUES ('main', ?, 1, NULL, NULL, 'x', make_date(2026, 1, ?))", [number, day]
                )
    with Database.open(path) as database:
        assert sorted(reason for _, reason in standing(database)) == ["again", "last"]
        assert campaigns.names(database) == ["b", "a"]
        assert champions.rollbacks(database, "main", 1) == 1
        campaigns.register(database, configuration.load(["campaign=c"]))
        assert campaigns.names(database) == ["c", "b", "a"]


def test_the_newest_campaign_is_the_one_begun_last(database):
    for name in ("first", "second"):
        campaigns.register(database, configuration.load([f"campaign={name}"]))
    database.execute(f"UPDATE campaigns SET started = started - {CLOCK_BACK} WHERE name = 'second'")
    assert campaigns.names(database) == ["second", "first"]
    assert [each.name for each in summary.status(database, None)] == ["second", "first"]


def test_status_shows_the_step_that_ended_last(database):
    campaigns.register(database, configuration.load(["campaign=main"]))
    ledger = Ledger(database)
    for key in ("collect", "train"):
        ledger.start(key, **ABOUT, name=key)
        ledger.record(key, **ABOUT, name=key, result=True)
    ledger.start("measure", **ABOUT, name="measure")
    database.execute(
        f"UPDATE steps SET started = started - {CLOCK_BACK}, finished = finished - {CLOCK_BACK} WHERE key <> 'collect'"
    )
    (status,) = summary.status(database, "main")
    assert (status.last.name, status.running.name) == ("train", "measure")
    ledger.fail("measure", **ABOUT, name="measure", error="x")
    ledger.start("collect again", **ABOUT, name="collect again")
    (status,) = summary.status(database, "main")
    assert (status.last.name, status.running.name) == ("measure", "collect again")
    (status,) = summary.status(database, None)  # nobody is at work: it was interrupted, and nothing ended after that
    assert (status.last.name, status.running) == ("collect again", None)


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_rollback_reaches_iterations_that_were_not_complete(database, hours):
    """Whatever the clock says: the second iteration was complete before the rollback, the third was not."""
    for iteration in (1, 2, 3):
        campaigns.begin_iteration(database, "main", iteration, champion=None)
        name = judge(database, dataclasses.replace(LAST, reason=str(iteration)), f"adapter_{iteration}")
        champions.promote(database, "main", f"adapter_{iteration}", iteration=iteration, verdict=name)
        if iteration < 3:
            campaigns.finish_iteration(database, "main", iteration)
    champions.rollback(database, "main", "adapter_1", reason="x")
    database.execute(f"UPDATE champions SET moved = moved + {hours} * INTERVAL 1 HOUR WHERE verdict IS NULL")
    assert [champions.rollbacks(database, "main", iteration) for iteration in (1, 2, 3)] == [0, 0, 1]
