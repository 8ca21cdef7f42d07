"""The line about the end of a run, from a real database: what it says, and that it comes once."""

from datetime import datetime, timedelta

import pytest

from agentloop import settings as configuration
from agentloop.campaign import news
from agentloop.records import Interval, Verdict
from agentloop.store import notices, verdicts
from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.ledger import Ledger

BEFORE = datetime(2020, 1, 1)


@pytest.fixture
def database(tmp_path):
    with Database.open(tmp_path / "agentloop.duckdb") as database:
        yield database


@pytest.fixture
def settings(tmp_path):
    return configuration.load({"campaign": "units", "notify": {"nights": 3}, "paths": {"data": str(tmp_path)}})


def judge(database, iteration: int, decision: str, before: float, after: float, *, look: int = 1, campaign="units"):
    intervals = [Interval(share, share - 0.05, share + 0.05) for share in (before, after, after - before)]
    verdict = Verdict(
        decision, f"eval_{iteration}a", f"eval_{iteration}b", *intervals, 0.001, "a reason", look, 2, 0.01
    )
    verdicts.save(database, verdict, campaign=campaign, iteration=iteration, adapter=f"adapter_{iteration}")


def told(database, settings, key="run/1", ending="done", said="", since=BEFORE):
    return news.of_run(database, settings, key=key, ending=ending, said=said, since=since)


def test_a_promotion(database, settings):
    judge(database, 4, "promote", 0.512, 0.554)
    notice = told(database, settings)
    assert notice.line == "units, iteration 4: promoted, 51.2 → 55.4 % (+4.2)"
    assert notice.events == ("done", "promoted") and notice.title == "agentloop: promoted"


def test_only_the_last_look_at_a_challenger_counts(database, settings):
    judge(database, 4, "needs_more_data", 0.5, 0.52)
    judge(database, 4, "keep", 0.5, 0.51, look=2)
    judge(database, 5, "needs_more_data", 0.5, 0.52)
    notice = told(database, settings)
    assert notice.line == "units, iteration 4: champion kept, challenger 50.0 → 51.0 % (+1.0)"
    assert notice.events == ("done",)


def test_several_iterations(database, settings):
    judge(database, 4, "keep", 0.5, 0.49)
    judge(database, 5, "promote", 0.5, 0.55)
    judge(database, 6, "promote", 0.55, 0.6)
    assert told(database, settings).line == (
        "units, iterations 4–6: promoted in 5, 50.0 → 55.0 % (+5.0); promoted in 6, 55.0 → 60.0 % (+5.0)"
    )
    judge(database, 7, "keep", 0.6, 0.58)
    judge(database, 8, "keep", 0.6, 0.61)
    assert told(database, settings, "run/2").line == (
        "units, iterations 7–8: champion kept, best challenger 60.0 → 61.0 % (+1.0)"
    )


def test_a_run_is_told_once_and_a_verdict_is_told_once(database, settings):
    judge(database, 1, "promote", 0.5, 0.6)
    assert told(database, settings, "one/1", "failed", "its process 7 is gone").events == ("failed", "promoted")
    assert told(database, settings, "one/1", "failed", "its process 7 is gone") is None
    assert told(database, settings, "one/1") is None
    notice = told(database, settings, "one/2", said="complete")  # resumed
    assert (notice.events, notice.line) == (("done",), "units: complete")


def test_the_first_notice_of_an_old_campaign_tells_of_its_own_run(database, settings):
    judge(database, 1, "promote", 0.5, 0.6)
    assert told(database, settings, since=now() + timedelta(seconds=1)).line == "units: done"
    judge(database, 2, "keep", 0.6, 0.6)
    assert "iteration 2" in told(database, settings, "run/2").line


def test_a_failure_names_its_step(database, settings):
    ledger = Ledger(database)
    judge(database, 4, "promote", 0.5, 0.6)
    ledger.record("a", campaign="units", iteration=5, name="collect", result=1)
    ledger.fail("b", campaign="units", iteration=5, name="train", error="the trainer was killed")
    ledger.fail("c", campaign="other", iteration=1, name="canary", error="elsewhere")
    assert told(database, settings, ending="failed", said="the trainer was killed").line == (
        "units: failed in train of iteration 5: the trainer was killed "
        "(before that, iteration 4: promoted, 50.0 → 60.0 % (+10.0))"
    )
    ledger.record("b", campaign="units", iteration=5, name="train", result=1)
    assert told(database, settings, "run/2", "failed", "no room").line == "units: failed: no room"


def test_nights_without_a_promotion_are_told_every_so_many(database, settings):
    def night(iteration: int, decision: str = "keep", **about):
        judge(database, iteration, decision, 0.5, 0.55 if decision == "promote" else 0.5)
        return "stalled" in told(database, settings, f"night {iteration}", **about).events

    assert [night(each) for each in (1, 2, 3, 4)] == [False, False, True, False]
    assert night(5, ending="failed", said="x") is False  # no night that came to its end
    assert [night(each) for each in (6, 7)] == [False, True]
    assert night(8, "promote") is False
    assert told(database, settings, "nothing to do").events == ("done",)  # no verdict: no night either
    assert [night(each) for each in (9, 10, 11)] == [False, False, True]
    assert notices.newest(database, 1)[0].line.endswith("; nothing promoted in 3 nights")


def test_campaigns_do_not_mix(database, settings):
    judge(database, 1, "promote", 0.5, 0.6, campaign="other")
    assert told(database, settings).line == "units: done"
    other = settings.model_copy(update={"campaign": "other"})
    assert told(database, other, "other/1").events == ("done", "promoted")


def test_what_became_of_it_is_kept(database, settings):
    told(database, settings)
    assert notices.newest(database, 5)[0].arrived is None
    notices.sent(database, "run/1", arrived=["command"], failed=["not told through https://x: answered 404"])
    (kept,) = notices.newest(database, 5)
    assert (kept.arrived, kept.failed) == (("command",), ("not told through https://x: answered 404",))
