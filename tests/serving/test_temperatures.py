"""Samples of one task at several temperatures, by the real vLLM: each is named by its own, and all have the raw policy's log
probabilities."""

import asyncio
import dataclasses

import pytest
from conftest import largest_gap, serving_settings

from agentloop.campaign import collect as rollouts
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.store.shards import read_shard

TEMPERATURES = (0.05, 2.0)


@pytest.fixture(scope="module")
def campaign(checkpoint, tmp_path_factory) -> Campaign:
    settings = serving_settings(tmp_path_factory.mktemp("temperatures"))
    few = settings.collect.model_copy(update={"tasks": 4, "samples": 4, "temperatures": TEMPERATURES})
    short = settings.agent.model_copy(update={"max_turns": 1, "max_turn_tokens": 24})
    return Campaign.open(settings.model_copy(update={"model": str(checkpoint), "collect": few, "agent": short}))


def planned(campaign: Campaign, **changes):
    collect = campaign.settings.collect.model_copy(update=changes)
    own = dataclasses.replace(campaign, settings=campaign.settings.model_copy(update={"collect": collect}))
    return [name for shard in rollouts.plan_collection(own, 1, None) for name in shard.trajectories]


def test_names_change_where_temperatures_do_and_nowhere_else(campaign):
    before, now = planned(campaign, temperatures=()), planned(campaign)
    assert planned(campaign, temperatures=(1.0,)) == planned(campaign, temperatures=(1.0, 1.0)) == before
    assert not set(now) & set(before)
    mixed = planned(campaign, temperatures=(1.0, 0.5))
    assert [new == old for new, old in zip(mixed, before, strict=True)] == [True, False] * 8
    [suite] = [campaign.heldout()]
    evaluated = rollouts.plan_evaluation(campaign, None, suite)
    assert {shard.sampling.temperature for shard in evaluated} == {campaign.settings.evaluate.temperature}
    assert {(shard.temperatures, shard.give_up_after) for shard in evaluated} == {((), None)}


def test_each_sample_has_its_temperature_and_the_raw_log_probabilities(campaign):
    [shard] = rollouts.plan_collection(campaign, 1, None)

    async def collect(server):
        await rollouts.collect_shard(campaign, server, shard, adapter=None, iteration=1, purpose="collect")
        async with server.client() as client:
            return [await client.prompt_logprobs("base", each.token_ids) for each in read()]

    def read():
        return read_shard(shard.path(campaign.settings.paths.shards))

    with campaign.held(), policies(campaign) as server:
        told = asyncio.run(collect(server))
    episodes = read()
    assert [each.id for each in episodes] == list(shard.trajectories)
    means = {temperature: [] for temperature in TEMPERATURES}
    for each, raw in zip(episodes, told, strict=True):
        assert each.sampling.temperature == TEMPERATURES[each.sample % 2]
        theirs = [logprob for logprob, own in zip(raw, each.mask[1:], strict=True) if own]
        own = [logprob for logprob, own in zip(each.logprobs, each.mask, strict=True) if own]
        assert largest_gap(theirs, own) < 1e-3
        means[each.sampling.temperature].append(sum(own) / len(own))
    assert min(means[0.05]) > max(means[2.0])  # the cold ones took what was likely
