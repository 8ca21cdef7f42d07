"""Rollback: what the pointer, its history and the next iteration say of it, and one line for what cannot be done."""

import shutil
from pathlib import Path

import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import rollback
from agentloop.campaign.campaign import Campaign
from agentloop.errors import AdapterError, StoreError
from agentloop.records import Adapter, Interval, Verdict
from agentloop.store import adapters, campaigns, champions, verdicts
from agentloop.store.database import Database

HALF = Interval(0.5, 0.4, 0.6)


def at(root: Path) -> Campaign:
    settings = configuration.load([f"paths.data={root}", f"paths.cache={root / 'cache'}"], profile="demo")
    return Campaign(settings, environments.get("arithmetic"), root, "base_1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two promotions, in two complete iterations."""
    root = tmp_path_factory.mktemp("recorded")
    campaign = at(root)
    campaign.settings.paths.adapters.mkdir()
    with campaign.database() as database:
        campaigns.register(database, campaign.settings)
    for iteration in (1, 2):
        campaign.begin(iteration)
        promote(campaign, iteration)
        campaign.finish(iteration)
    return root


@pytest.fixture
def campaign(recorded, tmp_path):
    return at(shutil.copytree(recorded, tmp_path / "data"))


def made(iteration: int) -> Adapter:
    return Adapter("base_1", f"data_{iteration}", {}, 0, "1")


def promote(campaign: Campaign, iteration: int) -> None:
    adapter, about = made(iteration), {"campaign": campaign.name, "iteration": iteration}
    directory = campaign.settings.paths.adapters / adapter.id
    directory.mkdir()
    verdict = Verdict("promote", "eval_1", "eval_2", HALF, HALF, HALF, 0.001, f"better in {iteration}")
    with campaign.database() as database:
        adapters.save(database, adapter, path=directory, **about)
        name = verdicts.save(database, verdict, adapter=adapter.id, **about)
        champions.promote(database, campaign.name, adapter.id, iteration=iteration, verdict=name)


def roll_back(campaign: Campaign, target: str | None = None, reason: str = "regret"):
    with campaign.database() as database:
        return rollback.roll_back(database, campaign.name, target, reason=reason)


def test_without_a_name_it_goes_back_one_promotion_at_a_time(campaign):
    assert roll_back(campaign) == (made(2).id, made(1).id)
    assert roll_back(campaign) == (made(1).id, None)
    with pytest.raises(StoreError, match="base model is champion"):
        roll_back(campaign)


def test_it_goes_to_any_earlier_champion_and_forward_again(campaign):
    roll_back(campaign, "base")
    assert campaign.champion() is None
    roll_back(campaign, made(2).id)
    assert campaign.champion() == made(2).id
    assert roll_back(campaign) == (made(2).id, made(1).id)  # whom it replaced when it was promoted


def test_the_history_tells_gate_from_hand_with_reasons(campaign):
    roll_back(campaign, "base", reason="it swears")
    with campaign.database() as database:
        moves = champions.moves(database, campaign.name)
    assert [(move.number, move.iteration, move.adapter, move.reason) for move in moves] == [
        (1, 1, made(1).id, "better in 1"),
        (2, 2, made(2).id, "better in 2"),
        (3, 2, None, "it swears"),
    ]
    assert [move.verdict is not None for move in moves] == [True, True, False]


def test_the_next_iteration_starts_from_it(campaign):
    roll_back(campaign)
    assert campaign.begin(3) == made(1).id


def test_complete_iterations_keep_the_champion_that_they_began_with(campaign):
    roll_back(campaign)
    assert (campaign.begin(1), campaign.begin(2)) == (None, made(1).id)


def test_an_interrupted_iteration_starts_again_from_it(campaign):
    assert campaign.begin(3) == made(2).id
    roll_back(campaign)
    assert campaign.begin(3) == made(1).id
    with campaign.database() as database:
        assert database.execute("SELECT champion FROM iterations WHERE iteration = 3") == [(made(1).id,)]
    roll_back(campaign, made(2).id)
    assert campaign.begin(3) == made(2).id


def test_what_cannot_be_done_is_one_line_and_moves_nothing(campaign):
    for target, message in (("adapter_0", "never champion"), (made(2).id, "champion of campaign 'demo' already")):
        with pytest.raises(StoreError, match=message) as error:
            roll_back(campaign, target)
        assert "\n" not in str(error.value)
    (campaign.settings.paths.adapters / made(1).id).rmdir()
    with pytest.raises(AdapterError, match="weights of .* are gone"):
        roll_back(campaign, made(1).id)
    with Database.open(campaign.settings.paths.database) as database:
        with pytest.raises(StoreError, match="no campaign named 'other'"):
            rollback.roll_back(database, "other", None, reason="regret")
        assert len(champions.moves(database, campaign.name)) == 2


def test_a_run_at_work_is_not_disturbed(campaign, run_command):
    with campaign.at_work():
        code, output = run_command(campaign, "rollback")
    assert code == 2 and output.startswith("error: ") and "owned by another run" in output
    code, output = run_command(campaign, "rollback", "base", "--reason", "it swears")
    assert code == 0 and f"the base model (it was {made(2).id})" in output
    code, output = run_command(campaign, "champion")
    assert code == 0 and "Champion of campaign demo: the base model" in output
    assert [word in output for word in (made(1).id, made(2).id, "gate", "rollback", "it swears")] == [True] * 5
    assert run_command(campaign, "rollback", "adapter_1", "adapter_2")[0] == 2
