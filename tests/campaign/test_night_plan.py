"""What is cut of an iteration that has to end in time: planned once, from what iterations of the campaign took."""

import json
import time
from datetime import datetime, timedelta

import pytest

from agentloop import settings as configuration
from agentloop.campaign import night_plan
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.night_plan import Deadline
from agentloop.store import gpu_phases, paces

BEGAN = datetime(2026, 1, 1).astimezone()


@pytest.fixture
def campaign(tmp_path):
    words = (f"paths.data={tmp_path / 'data'}", "night.hours=1", "collect.tasks=100", "collect.samples=2")
    campaign = Campaign.open(configuration.load(words, profile="demo"))
    with campaign.at_work():
        yield campaign


def record(campaign, iteration, *, collecting, training, rest, rows=50, episodes=200):
    """An iteration that was timed, as the steps record it."""
    ended = BEGAN + timedelta(seconds=collecting + training + rest)
    times = [moment.strftime("%Y-%m-%d %H:%M:%S.%f") for moment in (BEGAN, ended)]
    with campaign.database() as database:
        database.execute(
            "INSERT INTO iterations (campaign, iteration, started, finished) VALUES (?, ?, ?, ?)",
            [campaign.name, iteration, *times],
        )
        for phase, seconds in (("collect", collecting), ("train", training)):
            gpu_phases.save(
                database,
                campaign=campaign.name,
                iteration=iteration,
                phase=phase,
                started=BEGAN,
                finished=BEGAN + timedelta(seconds=seconds),
            )
        database.execute(
            "INSERT INTO collected SELECT ?, ?, 'collect', concat('t', range) FROM range(?)",
            [campaign.name, iteration, episodes],
        )
    campaign.step("select", iteration, [iteration], lambda: {"dataset": "data_x", "rows": rows, "funnel": []})


def test_paces_are_medians_of_the_newest(campaign):
    with campaign.database() as database:
        assert paces.of(database, campaign.name) is None
    record(campaign, 1, collecting=9000, training=9000, rest=9000)
    for iteration, slow in ((2, 1), (3, 5), (4, 1)):
        record(campaign, iteration, collecting=400 * slow, training=100 * slow, rest=300 * slow)
    with campaign.database() as database:
        assert paces.of(database, campaign.name) == paces.Pace(2.0, 2.0, 50, 300.0)


def test_without_a_deadline_or_a_pace_nothing_is_cut(campaign):
    assert night_plan.plan(campaign, 1, None) == night_plan.NightPlan(100, None, "")
    planned = night_plan.plan(campaign, 1, Deadline(time.time() + 1, last=1))
    assert (planned.tasks, planned.rows) == (100, None) and "no iteration of this campaign" in planned.told


def test_what_fits_is_left_and_what_does_not_is_cut_in_proportion(campaign):
    record(campaign, 1, collecting=400, training=100, rest=300)  # 2 s an episode, 2 s a row: 500 s and 300 s
    soon = time.time()
    assert night_plan.plan(campaign, 2, Deadline(soon + 810, last=2)).rows is None
    planned = night_plan.plan(campaign, 3, Deadline(soon + 550, last=3))
    assert (planned.tasks, planned.rows) == (pytest.approx(50, abs=1), pytest.approx(25, abs=1))
    assert f"{planned.tasks} of 100 tasks" in planned.told and "2 s an episode" in planned.told
    # two iterations share what is left
    assert night_plan.plan(campaign, 4, Deadline(soon + 1100, last=5)).tasks == pytest.approx(50, abs=1)


def test_a_night_that_is_too_short_is_said_to_be(campaign):
    record(campaign, 1, collecting=400, training=100, rest=300)
    planned = night_plan.plan(campaign, 2, Deadline(time.time() + 100, last=2))
    assert (planned.tasks, planned.rows) == (8, 8) and planned.told.endswith("evaluate.tasks lower.")


def test_an_iteration_that_is_begun_again_has_the_same_plan(campaign):
    record(campaign, 1, collecting=400, training=100, rest=300)
    first = night_plan.plan(campaign, 2, Deadline(time.time() + 550, last=2))
    assert night_plan.plan(campaign, 2, Deadline(time.time() + 9000, last=2)) == first
    assert night_plan.plan(campaign, 2, None) == first, "also where it is only played again what is damaged"
    with campaign.database() as database:
        [(result,)] = database.execute("SELECT result FROM steps WHERE name = 'plan'")
    assert json.loads(result)["tasks"] == first.tasks
