"""The report of a run that is at work, written by a process of its own; and the last one, however the run ends."""

from __future__ import annotations

import time

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import live, report
from agentloop.campaign.campaign import Campaign
from agentloop.errors import StoreError
from agentloop.store.runs import FlowRun

LINK = "http://127.0.0.1:4200/runs/flow-run/run-1"


@pytest.fixture
def campaign(tmp_path):
    words = [f"paths.data={tmp_path}", f"paths.cache={tmp_path / 'cache'}", "report.seconds=0.2", "report.sinks=[]"]
    settings = configuration.load(words, profile="demo")
    settings.export()
    return Campaign(settings, environments.get("arithmetic"), settings.model_directory(), "base_1")


def page(campaign, condition) -> str:
    """The page, as soon as it says so."""
    file, deadline = report.path(campaign.settings), time.monotonic() + 120
    while time.monotonic() < deadline:
        if file.is_file() and condition(text := file.read_text()):
            return text
        time.sleep(0.1)
    log = campaign.settings.paths.logs / "report.log"
    raise AssertionError(log.read_text() if log.exists() else "no page")


def test_the_page_follows_a_run_and_ends_with_it(campaign):
    with live.reported(campaign.settings), campaign.at_work(FlowRun("run-1", "self-improve", LINK)):
        working = page(campaign, lambda text: "At work" in text)
        assert 'data-refresh="0.2"' in working and LINK in working
        campaign.begin(1)
        page(campaign, lambda text: "iteration 1" in text.partition("<nav")[0])
        index = (campaign.settings.paths.reports / "index.html").read_text()
        assert ">at work<" in index and LINK not in index
    ended = report.path(campaign.settings).read_text()
    assert 'data-refresh="0"' in ended and "At work" not in ended
    time.sleep(1)
    assert report.path(campaign.settings).read_text() == ended  # nobody writes any more


def test_a_run_that_stops_early_leaves_a_page_that_says_why(campaign):
    settings = campaign.settings.model_copy(
        update={"report": campaign.settings.report.model_copy(update={"seconds": 0.0})}
    )
    with pytest.raises(StoreError):
        with live.reported(settings), campaign.at_work():

            def work():
                raise StoreError("selection: nothing is left")

            campaign.begin(1)
            campaign.step("select", 1, [], work)
    said = report.path(settings).read_text()
    assert "The last run stopped. Selection: nothing is left." in said
    assert "continues at iteration 1" in said
    assert "nothing is left" in (settings.paths.reports / "index.html").read_text()


def test_what_goes_wrong_with_the_report_does_not_end_the_run(campaign, capsys):
    campaign.settings.paths.reports.rmdir()
    campaign.settings.paths.reports.write_text("in the way")
    with live.reported(campaign.settings), campaign.at_work():
        done = campaign.step("select", 1, [], lambda: {"rows": 3})
    assert done == {"rows": 3}
    assert "the report is not written" in capsys.readouterr().out


def test_a_run_that_is_refused_before_it_begins_says_nothing_of_a_report(campaign, capsys):
    with pytest.raises(StoreError, match="refused"):
        with live.reported(campaign.settings):
            raise StoreError("refused")
    assert capsys.readouterr().out == ""
    assert not report.path(campaign.settings).exists()
