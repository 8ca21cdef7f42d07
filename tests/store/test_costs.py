"""What a campaign costs: its runs and how they ended, and every second of them once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentloop.store import campaigns, gpu_phases, process_times, runs
from agentloop.store.ledger import Ledger
from agentloop.store.runs import FlowRun


def test_a_run_has_its_link_and_its_end(database):
    link = "http://127.0.0.1:4200/runs/flow-run/1"
    first = runs.begin(database, "main", FlowRun("1", "self-improve", link))
    second = runs.begin(database, "other")
    runs.end(database, first)
    runs.end(database, second, error="data: full")
    (kept,) = runs.of_campaign(database, "main")
    assert (kept.flow, kept.flow_run, kept.link, kept.error) == ("self-improve", "1", link, None)
    assert kept.started <= kept.finished
    (other,) = runs.of_campaign(database, "other")
    assert (other.number, other.flow, other.error) == (second, None, "data: full")


def test_a_flow_that_takes_the_data_root_again_has_one_run(database):
    first = runs.begin(database, "main", FlowRun("1"))
    runs.end(database, first)
    assert runs.begin(database, "main", FlowRun("1")) == first
    assert [run.finished for run in runs.of_campaign(database, "main")] == [None]
    assert runs.begin(database, "main", FlowRun("2")) != first
    assert runs.begin(database, "main") != runs.begin(database, "main")


def test_a_killed_run_ends_with_its_last_sign_of_life(database):
    number = runs.begin(database, "main")
    moment = datetime(2099, 1, 1, tzinfo=UTC)
    gpu_phases.save(database, campaign="main", iteration=1, phase="collect", started=moment, finished=moment)
    runs.note_killed(database)
    (run,) = runs.of_campaign(database, "main")
    assert run.number == number and run.error == runs.KILLED and run.finished == moment.replace(tzinfo=None)
    silent = runs.begin(database, "silent")
    runs.note_killed(database)
    (run,) = runs.of_campaign(database, "silent")
    assert run.number == silent and run.finished == run.started


def test_every_second_is_counted_once(database):
    """A collection of 60 s in which vLLM took 20 s to start, and a training of 30 s: start, steps, save."""
    ended = datetime.now(UTC)
    about = {"campaign": "main", "iteration": 1}
    campaigns.begin_iteration(database, "main", 1, champion=None)

    def phase(name: str, first: float, last: float) -> None:
        times = (ended - timedelta(seconds=each) for each in (first, last))
        gpu_phases.save(database, phase=name, started=next(times), finished=next(times), **about)

    phase("collect", 100, 40)
    process_times.save(database, process="vllm", action="start", seconds=20, ago=75, reason="it died", **about)
    phase("train", 35, 5)
    process_times.save(database, process="trainer", action="start", seconds=10, ago=24, **about)
    process_times.save(database, process="trainer", action="steps", seconds=15, ago=9, **about)
    process_times.save(database, process="trainer", action="save", seconds=4, ago=5, **about)
    Ledger(database).start("step_1", name="select", **about)
    Ledger(database).record("step_1", name="select", result={}, **about)
    times = dict(database.execute("SELECT part, sum(seconds) FROM v_times WHERE NOT control GROUP BY part"))
    assert times.pop("select") == pytest.approx(0, abs=1)
    assert times == pytest.approx(
        {"collect": 40, "vllm start": 20, "train": 1, "trainer start": 10, "trainer steps": 15, "trainer save": 4}
    )
    campaigns.finish_iteration(database, "main", 1)
    later = datetime.now(UTC) + timedelta(seconds=1)
    gpu_phases.save(database, phase="train", started=later, finished=later + timedelta(seconds=9), **about)
    assert database.execute("SELECT part, seconds FROM v_times WHERE control") == [("train", 9.0)]
