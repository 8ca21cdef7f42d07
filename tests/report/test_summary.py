"""Rows, tables and sentences against the database that they speak of."""

import dataclasses
import io

import pytest
from recorded_campaign import CAMPAIGN, Recorder, recorded  # noqa: F401  (a fixture)
from rich.console import Console

from agentloop.campaign import results
from agentloop.records import Evaluation, Interval
from agentloop.report import comparison, summary
from agentloop.store import campaigns, champions, evaluations, verdicts
from agentloop.store.database import Database
from agentloop.store.ledger import Ledger


@pytest.fixture
def database(recorded):
    with Database.open(recorded.database, read_only=True) as database:
        yield database


@pytest.fixture
def fresh(tmp_path):
    """A campaign that has only been registered."""
    recorder = Recorder(tmp_path, training_tasks=2, heldout_tasks=2)
    with Database.open(recorder.database) as database:
        campaigns.register(database, recorder.settings)
        yield database


def text_of(table) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_a_row_for_each_iteration_says_what_its_verdict_says(recorded, database):
    rows = results.iterations(database, CAMPAIGN)
    assert [row.name for row in rows] == ["1", "2", "3", "control"]
    for row in rows[:3]:
        ((verdict, adapter),) = database.execute(
            "SELECT id, adapter FROM verdicts WHERE iteration = ?", [row.iteration]
        )
        said = verdicts.load(database, verdict)
        assert (row.before, row.after) == (said.champion_success, said.challenger_success)
        assert row.difference == said.difference
        assert (row.mcnemar_p, row.decision, row.adapter) == (said.mcnemar_p, said.decision, adapter)
        assert row.tasks == recorded.training_tasks
        ((trained_on,),) = database.execute("SELECT count(*) FROM v_lineage WHERE adapter = ?", [adapter])
        assert row.rows == trained_on


def test_the_control_is_compared_with_the_base_model(database):
    control = results.iterations(database, CAMPAIGN)[-1]
    shares = dict(
        database.execute(
            """
        SELECT u.role, avg(r.solved::INTEGER) FROM evaluation_uses u JOIN evaluation_results r USING (evaluation)
        WHERE (u.role = 'champion' AND u.iteration = 1) OR u.role = 'control' GROUP BY u.role
        """
        )
    )
    assert control.before.estimate == pytest.approx(shares["champion"])
    assert control.after.estimate == pytest.approx(shares["control"])
    assert control.difference.estimate == pytest.approx(shares["control"] - shares["champion"])
    assert control.decision is None and control.tasks is None


def test_the_table_fits_100_columns_without_cutting_anything(database):
    rows = results.iterations(database, CAMPAIGN)
    shown = text_of(summary.table(rows))
    assert "…" not in shown
    for row in rows:
        line = next(line for line in shown.splitlines() if row.adapter in line)
        for interval in (row.before, row.after):
            assert f"{100 * interval.estimate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" in line
        assert summary.DECISIONS[row.decision] in line


def test_the_table_fits_with_the_widest_values():
    full, near = Interval(1.0, 1.0, 1.0), Interval(0.999, 0.998, 0.9994)
    row = summary.Row(999, False, 65536, 999999, near, full, full, 1.0, "needs_more_data", f"adapter_{'0' * 16}")
    shown = text_of(summary.table([row]))
    assert "…" not in shown and "99.9 [99.8, 99.9]" in shown and "100 [100, 100]" in shown and row.adapter in shown


def test_markdown_has_the_same_rows(database):
    rows = results.iterations(database, CAMPAIGN)
    head, rule, *lines = summary.markdown(rows).splitlines()
    assert len(lines) == len(rows)
    assert {line.count("|") for line in (head, rule, *lines)} == {10}
    for row, line in zip(rows, lines, strict=True):
        assert f"| {row.name} |" in line and row.adapter in line and comparison.probability(row.mcnemar_p) in line


def test_an_iteration_that_has_only_begun_has_a_row(fresh):
    assert results.iterations(fresh, CAMPAIGN) == []
    campaigns.begin_iteration(fresh, CAMPAIGN, 1, champion=None)
    (row,) = results.iterations(fresh, CAMPAIGN)
    assert row == summary.Row(1, False, None, None, None, None, None, None, None, None)
    assert "1" in text_of(summary.table([row])) and summary.markdown([row]).count("\n") == 2


def test_status_tells_what_a_campaign_is_doing(fresh):
    (status,) = summary.status(fresh, CAMPAIGN)
    assert (status.name, status.done, status.planned, status.champion) == (CAMPAIGN, 0, 3, None)
    assert status.last is None and status.running is None
    ledger, about = Ledger(fresh), {"campaign": CAMPAIGN, "iteration": 1}
    ledger.start("step_1", name="select", **about)
    (status,) = summary.status(fresh, CAMPAIGN)
    assert str(status.running) == "select of iteration 1" and status.last is None
    for at_work in (None, "other"):  # its process is gone
        (status,) = summary.status(fresh, at_work)
        assert status.running is None and str(status.last) == "select of iteration 1"
        assert "select of iteration 1: interrupted" in text_of(summary.status_table([status]))
    ledger.record("step_1", name="select", result={}, **about)
    ledger.start("step_2", name="train", **about)
    ledger.fail("step_2", name="train", error="the disk is full", **about)
    (status,) = summary.status(fresh, CAMPAIGN)
    assert str(status.last) == "train of iteration 1" and status.running is None
    assert "the disk is full" in text_of(summary.status_table([status]))


def test_status_of_a_finished_campaign(database):
    (status,) = summary.status(database, None)
    assert (status.done, status.planned) == (3, 3)
    assert status.champion == champions.champion(database, CAMPAIGN) is not None
    assert status.champion in text_of(summary.status_table([status]))


def test_the_headline_compares_base_and_champion_on_the_stored_results(database):
    result = results.headline(database, CAMPAIGN)
    champion = champions.champion(database, CAMPAIGN)
    assert result.champion == champion
    base, best, reached, new, never = database.execute(
        """
        WITH results AS (
            SELECT p.adapter, r.task, avg(r.solved::INTEGER) AS share FROM evaluation_results r
            JOIN evaluations e ON e.id = r.evaluation JOIN policies p ON p.id = e.policy
            WHERE p.adapter IS NULL OR p.adapter = ? GROUP BY p.adapter, r.task
        )
        SELECT avg(b.share), avg(c.share), avg((b.share > 0)::INTEGER), count(*) FILTER (b.share = 0 AND c.share > 0),
               count(*) FILTER (b.share = 0)
        FROM results b JOIN results c ON c.task = b.task AND c.adapter IS NOT NULL WHERE b.adapter IS NULL
        """,
        [champion],
    )[0]
    gain = result.gain
    assert gain.before_success.estimate == pytest.approx(base)
    assert gain.after_success.estimate == pytest.approx(best)
    assert gain.difference.low <= best - base <= gain.difference.high
    assert result.gain.reached_before == pytest.approx(reached)
    assert (sum(result.gain.never_before), len(result.gain.never_before)) == (new, never)
    said = " ".join(comparison.findings(result))
    assert all(comparison.percent(share) in said for share in (base, best, reached))
    assert comparison.points(best - base) in said
    assert "control" in said


def test_without_a_promotion_the_findings_say_so_first(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=10, heldout_tasks=12)
    recorder.record(iterations=1, control=False)
    with Database.open(recorder.database, read_only=True) as database:
        result = results.headline(database, CAMPAIGN)
    assert result.champion is None and result.over_control is None
    assert comparison.findings(result)[0].startswith("There is not enough evidence that a challenger is better")
    assert "newest challenger" in comparison.findings(result)[1]


def test_what_was_measured_on_unseen_tasks_is_said_and_kept_apart(tmp_path):
    recorder = Recorder(tmp_path, training_tasks=6, heldout_tasks=8)
    recorder.record(iterations=1, control=False)
    with Database.open(recorder.database) as database:
        ((verdict, adapter),) = database.execute("SELECT id, adapter FROM verdicts")
        about = {"campaign": CAMPAIGN, "iteration": 1}
        promoted = dataclasses.replace(verdicts.load(database, verdict), decision="promote")
        name = verdicts.save(database, promoted, adapter=adapter, **about)
        champions.promote(database, adapter=adapter, verdict=name, **about)
        before = results.headline(database, CAMPAIGN)
        assert before.unseen is None
        for acting, solved in ((None, 3), (adapter, 15)):
            ((policy,),) = database.execute("SELECT id FROM policies WHERE adapter IS NOT DISTINCT FROM ?", [acting])
            outcomes = tuple((task < solved,) for task in range(20))
            measured = Evaluation(policy, tuple(f"task_{task}" for task in range(20)), 1, 0, outcomes)
            evaluations.save(database, measured, campaign=CAMPAIGN, iteration=0, role="champion", suite="unseen")
        after = results.headline(database, CAMPAIGN)
    assert after.gain == before.gain
    assert after.unseen.difference.estimate == pytest.approx(12 / 20)
    said = " ".join(comparison.findings(after))
    assert "On 20 further tasks, on which no verdict was based, the champion solves 75.0 %" in said
    assert "the base model solves 15.0 %: +60.0 percentage points" in said


def test_a_campaign_without_measurements_claims_nothing(fresh):
    result = results.headline(fresh, CAMPAIGN)
    assert result == comparison.Headline(None, None, None, None, (), None, None)
    assert comparison.findings(result) == [
        "The base model and a challenger have not been measured on the same tasks yet: no gain can be stated."
    ]


def test_a_share_that_is_halfway_is_rounded_alike_however_it_was_summed():
    exact = 29 / 80
    for share in (exact, 0.74375 - 0.38125, exact + 1e-15, exact - 1e-15):
        assert comparison.points(share) == comparison.points(exact)
        assert comparison.percent(share) == comparison.percent(exact)
