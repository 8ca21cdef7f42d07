"""A campaign that goes on: what a run adds, what is left, and what is said of it."""

from agentloop import settings as configuration
from agentloop.campaign import nights
from agentloop.campaign.campaign import Campaign
from agentloop.store import campaigns


def opened(tmp_path, *words):
    paths = (f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}")
    return Campaign.open(configuration.load([*paths, "gate.control=false", *words], profile="demo"))


def finish(campaign, *iterations):
    with campaign.database() as database:
        for iteration in iterations:
            campaigns.begin_iteration(database, campaign.name, iteration, champion=None)
            campaigns.finish_iteration(database, campaign.name, iteration)


def test_each_run_adds_its_iterations_and_a_run_tried_again_no_others(tmp_path):
    campaign = opened(tmp_path, "iterations=2")
    with campaign.at_work():
        assert nights.aim(campaign, "first night") == 2
        finish(campaign, 1)  # and killed
        assert nights.aim(campaign, "first night") == 2
        finish(campaign, 2)
        assert nights.aim(campaign, "first night") == 2
        assert nights.aim(campaign, "second night") == 4
    assert nights.with_more(campaign.settings).iterations == 4


def test_before_the_first_night(tmp_path):
    assert nights.with_more(opened(tmp_path, "iterations=2").settings).iterations == 2


def test_what_is_left(tmp_path):
    campaign = opened(tmp_path, "iterations=5")
    with campaign.at_work():
        finish(campaign, 1, 2)
        left = nights.work(campaign)
        assert left.iterations == (3, 4, 5) and left
        assert nights.title(campaign.settings, left.iterations) == "demo · iterations 3–5"
        assert nights.title(campaign.settings, (3,)) == "demo · iteration 3"
        finish(campaign, 3, 4, 5)
        left = nights.work(campaign)
        assert not left and nights.title(campaign.settings, left.iterations) == "demo"
        ending = nights.ending(campaign, left.iterations)
    assert ending == nights.Ending("Nothing to do", "demo: all 5 iterations are there, the champion is the base model")
