"""What a campaign cost, against what was recorded; and how its page says that it stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from recorded_campaign import CAMPAIGN, Recorder, recorded  # noqa: F401  (a fixture)

from agentloop.campaign import results, standing
from agentloop.campaign.lock import Owner
from agentloop.report import cost, overview, page
from agentloop.report.page import Sources
from agentloop.store import campaigns, gpu_phases, process_times, runs
from agentloop.store.database import Database
from agentloop.store.ledger import Ledger
from agentloop.store.runs import FlowRun

START = datetime(2026, 1, 5, 1, 0)


def moment(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def database(tmp_path):
    """Two runs of 100 s with a night between them; one iteration over both, and a control."""
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=2)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        for first, last in ((0, 100), (40_000, 40_100)):
            number = runs.begin(
                database, CAMPAIGN, FlowRun(str(first), "self-improve", "http://127.0.0.1:4200/runs/flow-run/1")
            )
            runs.end(database, number)
            database.execute(
                "UPDATE runs SET started = ?, finished = ? WHERE number = ?", [moment(first), moment(last), number]
            )
        campaigns.begin_iteration(database, CAMPAIGN, 1, champion=None)
        campaigns.finish_iteration(database, CAMPAIGN, 1)
        database.execute("UPDATE iterations SET started = ?, finished = ?", [moment(10), moment(40_060)])
        phase(database, "collect", 20, 90)
        took(database, "vllm", "start", 20, 25)
        phase(database, "train", 40_000, 40_050)
        took(database, "trainer", "start", 40_000, 8, reason="killed")
        took(database, "trainer", "steps", 40_008, 40)
        took(database, "trainer", "save", 40_048, 2)
        phase(database, "train", 40_060, 40_090)
        yield database


def phase(database: Database, name: str, first: float, last: float) -> None:
    times = {"started": moment(first).replace(tzinfo=UTC), "finished": moment(last).replace(tzinfo=UTC)}
    gpu_phases.save(database, campaign=CAMPAIGN, iteration=1, phase=name, peak_bytes=2**30, **times)


def took(
    database: Database, process: str, action: str, first: float, seconds: float, reason: str | None = None
) -> None:
    process_times.save(
        database, campaign=CAMPAIGN, iteration=1, process=process, action=action, seconds=seconds, reason=reason
    )
    database.execute(
        "UPDATE process_times SET started = ? WHERE process = ? AND action = ?", [moment(first), process, action]
    )


def test_the_parts_of_an_iteration_add_up_to_the_time_at_work(database):
    first, control, outside = cost.of_campaign(database, CAMPAIGN)
    assert (first.name, control.name, outside.name) == ("1", "control", "outside")
    assert first.wall == 90 + 60 and control.wall == 30 and outside.wall == 200 - 180
    assert {name: seconds for name, seconds in first.parts.items() if seconds} == {
        "sampling": 45, "vLLM start": 25, "trainer start": 8, "training steps": 40, "trainer save": 2, "other": 30,
    }  # fmt: skip
    assert first.overhead == pytest.approx(32 / 150)
    assert (first.spent["gpu"], control.spent["gpu"]) == (120, 30)
    assert (first.spent["vllm_starts"], first.spent["trainer_losses"], first.spent["peak"]) == (1, 1, 2**30)


def test_the_end_of_a_run_without_a_control_is_outside_of_its_iterations(database):
    database.execute("DELETE FROM gpu_phases WHERE started >= ?", [moment(40_060)])
    took(database, "vllm", "stop", 40_070, 3)
    first, outside = cost.of_campaign(database, CAMPAIGN)
    assert (first.name, first.wall, outside.name, outside.wall) == ("1", 150, "outside", 50)
    assert outside.parts["vLLM swap"] == 3 and outside.parts["other"] == 47


def test_the_page_tells_cost_faults_and_runs(database, tmp_path):
    written = page.write(
        database, CAMPAIGN, results.headline(database, CAMPAIGN), Sources(tmp_path), tmp_path / "page.html"
    ).read_text()
    assert "3 min 20 s" in written and "150 GPU seconds" in written
    assert 'href="http://127.0.0.1:4200/runs/flow-run/1"' in written
    assert "trainer ended" in written and "killed" in written
    assert "1: vLLM start 25.0 s, 16.7 %" in written


def test_a_campaign_from_before_runs_were_recorded_has_its_iterations_time(recorded, tmp_path):
    with Database.open(recorded.database, read_only=True) as database:
        costs = cost.of_campaign(database, CAMPAIGN)
    assert [each.name for each in costs][:3] == ["1", "2", "3"]
    assert sum(each.parts["training steps"] for each in costs) == pytest.approx(4 * 31.5)


def said(database: Database, tmp_path, owner: Owner | None = None):
    paths = Recorder(tmp_path, training_tasks=2, heldout_tasks=2).settings.paths
    return standing.state(database, CAMPAIGN, paths.model_copy(update={"data": tmp_path}), owner)


def test_what_stopped_a_campaign_and_what_to_do_is_said(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=4)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        assert said(database, tmp_path).kind == "paused"
        number = runs.begin(database, CAMPAIGN, FlowRun("1", link="http://127.0.0.1:4200/runs/flow-run/1"))
        assert (said(database, tmp_path).kind, "killed" in said(database, tmp_path).said.lower()) == ("stopped", True)
        working = said(
            database, tmp_path, Owner(1, runs.of_campaign(database, CAMPAIGN)[0].started.isoformat(), CAMPAIGN)
        )
        assert working.kind == "working" and working.link == "http://127.0.0.1:4200/runs/flow-run/1"
        recorder.roll_out(database, None, recorder.heldout, 0.0, 1, "collect")
        about = {"campaign": CAMPAIGN, "iteration": 1, "name": "select"}
        Ledger(database).start("step_1", **about)
        Ledger(database).fail(
            "step_1", error="selection: nothing is left of 16 trajectories after the rule 'solved'", **about
        )
        runs.end(database, number, error="selection: nothing is left of 16 trajectories after the rule 'solved'")
        state = said(database, tmp_path)
        assert state.kind == "stopped" and "nothing is left of 16 trajectories after the rule 'solved'" in state.said
        assert "agentloop teach" in state.advice
        # a flow may end in order after a step that failed
        database.execute("UPDATE runs SET error = NULL")
        state = said(database, tmp_path)
        assert state.kind == "stopped" and "nothing is left of 16 trajectories after the rule 'solved'" in state.said
        assert "nothing is left of 16 trajectories" in overview.write(database, tmp_path).read_text()


def test_what_was_measured_alone_is_in_the_page(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=10)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        measured = recorder._evaluate(database, None, 0.5, 0, "champion")
        result = results.headline(database, CAMPAIGN)
        share = sum(map(sum, measured.successes)) / 40
        assert (
            result.alone and result.alone.name == "base model" and result.alone.success.estimate == pytest.approx(share)
        )
        written = page.write(database, CAMPAIGN, result, Sources(tmp_path), tmp_path / "page.html").read_text()
        assert f"{100 * share:.1f} %" in written and "the base model solves" in written


def test_the_index_has_every_campaign_with_its_course_and_state(recorded, tmp_path):
    (tmp_path / f"{CAMPAIGN}.html").write_text("a page")
    with Database.open(recorded.database, read_only=True) as database:
        first, *_, last = results.iterations(database, CAMPAIGN)[:3]
        written = overview.write(database, tmp_path).read_text()
        at_work = overview.write(database, tmp_path, at_work=CAMPAIGN).read_text()
    assert f'<a href="{CAMPAIGN}.html">{CAMPAIGN}</a>' in written
    assert f"{100 * first.before.estimate:.1f} % →" in written and f"{100 * last.after.estimate:.1f} %" in written
    assert "3 of 3" in written and ">complete<" in written and ">at work<" in at_work
    assert 'http-equiv="refresh"' in at_work and 'http-equiv="refresh"' not in written
    assert "script" not in written.replace("script-src", "")
