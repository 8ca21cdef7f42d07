"""The base before anything is trained on it: settled once, measured by the engine, compared from stored episodes, refused."""

from __future__ import annotations

import pytest

from agentloop import settings as configuration
from agentloop.campaign import judge
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import prepare
from agentloop.campaign.quantize import settle
from agentloop.errors import SettingError
from agentloop.records import NF4, NONE, Trajectory, Turn
from agentloop.store import base_judgements, campaigns
from agentloop.store.shards import write_shard
from tests.quantization.conftest import with_outliers

SETTINGS = ("collect.tasks=24", "collect.samples=4", "collect.shard_episodes=64", "training.max_quantization_loss=0.05")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return with_outliers(tmp_path_factory.mktemp("broken") / "base")


def opened(root, *words: str, model=None) -> Campaign:
    own = [f"paths.data={root / 'data'}", f"paths.cache={root / 'cache'}", *([f"model={model}"] if model else [])]
    return Campaign.open(configuration.load([*SETTINGS, *own, *words], profile="demo"))


def play(campaign: Campaign, held, solved: int) -> None:
    """Leave the shard that the base, held like this, would have left: of every four samples so many are right."""
    own = campaign.on(held)
    shard = judge.first_shard(own)
    episodes = []
    for task, sample in shard.episodes:
        answer = task.answer if sample < solved else "nothing"
        turns = Turn("user", task.question, 0, 2), Turn("model", answer, 2, 4)
        mask, logprobs = (False, False, True, True), (0.0, 0.0, -1.0, -1.0)
        episodes.append(
            Trajectory(
                shard.policy, task, sample, shard.sampling, shard.seed, "answered", answer, (2, 5, 9, 1), mask, logprobs,
                turns, 1.0,
            )
        )  # fmt: skip
    write_shard(shard.path(own.settings.paths.shards), episodes, purpose="collect", campaign=own.name, iteration=1)


def test_auto_is_16_bit_on_the_cpu_and_is_recorded_once(tmp_path):
    campaign = opened(tmp_path, "training.quantization=auto")
    with campaign.at_work():
        settle(campaign)
        assert campaign.quantization == NONE and campaign.policy(None).base == campaign.base
        assert judge.judge(campaign, None) is None
        with campaign.database() as database:
            steps = database.execute("SELECT name, iteration, result FROM steps")
            assert campaigns.quantization(database, campaign.settings) == "none"
    assert [(name, iteration) for name, iteration, _ in steps] == [("quantize", 0)]
    again = opened(tmp_path, "training.quantization=auto")
    with again.at_work():
        settle(again)
        assert again.quantization == NONE
        with again.database() as database:
            assert database.execute("SELECT count(*), max(tries) FROM steps") == [(1, 1)]


def test_what_is_named_by_the_setting_is_not_recorded(tmp_path):
    campaign = opened(tmp_path)
    with campaign.at_work():
        assert campaign.quantization == NF4 and campaign.policy(None).base == f"{campaign.base}-nf4"
        with campaign.database() as database:
            assert database.execute("SELECT count(*) FROM steps") == [(0,)]


def test_a_broken_base_is_measured_compared_and_refused(broken, tmp_path, capsys):
    campaign = opened(tmp_path, model=broken)
    with campaign.at_work():
        play(campaign, NONE, solved=3)
        play(campaign, NF4, solved=0)
        told = ""
        for _ in range(2):
            with pytest.raises(SettingError, match="^training.quantization: nf4 breaks this base: ") as refused:
                judge.judge(campaign, None)
            told = str(refused.value)
        assert "\n" not in told and "set training.quantization to none or dynamic" in told
        assert "it solves 0.0% where 16 bit solves 75.0% (16 tasks × 4)" in told
        with campaign.database() as database:
            steps = database.execute("SELECT name, tries FROM steps ORDER BY name")
            judged = base_judgements.newest(database, campaign.name)
        assert steps == [("compare", 1), ("judge", 1)]  # measured once, also where it is asked again
        assert judged["episode_kl"] > campaign.settings.training.quantization_tolerance
        assert judged["success"]["surely_lost"] > 0.4
    assert capsys.readouterr().out.count("base in nf4, ") == 2
    # whoever accepts the loss goes on
    accepted = opened(tmp_path, "training.max_quantization_loss=0.9", model=broken)
    with accepted.at_work():
        assert judge.judge(accepted, None)["success"]["quantised"]["estimate"] == 0


def test_a_loss_that_may_be_chance_is_not_refused(broken, tmp_path):
    campaign = opened(tmp_path, model=broken)
    with campaign.at_work():
        play(campaign, NONE, solved=3)
        play(campaign, NF4, solved=3)
        success = judge.judge(campaign, None)["success"]
        assert success["difference"]["estimate"] == 0 and success["surely_lost"] < 0


def test_without_a_tolerable_loss_success_is_not_asked_for(broken, tmp_path):
    campaign = opened(tmp_path, "training.max_quantization_loss=1", model=broken)
    with campaign.at_work():
        assert judge.judge(campaign, None)["success"] is None


def test_dynamic_is_planned_once_and_names_what_it_is(broken, tmp_path):
    words = (
        "training.quantization=dynamic",
        "training.quantization_tolerance=0.5",
        "training.max_quantization_loss=1",
    )
    campaign = opened(tmp_path, *words, model=broken)
    with campaign.at_work():
        with pytest.raises(LookupError, match="training.quantization: .* is not planned yet"):
            campaign.quantization
        held = settle(campaign)
        assert held == campaign.quantization
        assert held.kind == "dynamic" and any(name.endswith("down_proj") for name in held.in_16bit)
        judged = judge.judge(campaign, None)
        assert judged["episode_kl"] <= 0.5 and judged["quantization"] == "dynamic"
        named = campaign.policy(None).base
    again = opened(tmp_path, *words, model=broken)
    with again.at_work():
        assert again.quantization == held and again.policy(None).base == named != f"{again.base}-nf4"
        assert prepare(again).name.endswith(named.partition("-")[2])
