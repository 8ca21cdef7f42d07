"""Several vLLM servers of one machine, here two on the CPU: they share the episodes, and the end of one costs none of them."""

import asyncio
import dataclasses
import signal
from collections import Counter

import pytest
from conftest import processes_of, serving_settings

from agentloop import card
from agentloop.campaign import collect as rollouts
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.errors import SettingError
from agentloop.serving import command, server_group
from agentloop.serving.command import Place
from agentloop.serving.installation import Installation
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.server import ModelServer
from agentloop.store.shards import read_shard

CARD = card.Card("H200", 139.0, "9.0")


@pytest.fixture(scope="module")
def campaign(checkpoint, tmp_path_factory) -> Campaign:
    settings = serving_settings(tmp_path_factory.mktemp("several"), request_seconds=60, servers=2)
    few = settings.collect.model_copy(
        update={"tasks": 16, "samples": 4, "shard_episodes": 32, "concurrency": 16, "episode_seconds": 300}
    )
    short = settings.agent.model_copy(update={"max_turns": 2, "max_turn_tokens": 24})
    return Campaign.open(settings.model_copy(update={"model": str(checkpoint), "collect": few, "agent": short}))


@pytest.mark.slow
def test_two_servers_share_the_episodes_and_one_is_replaced_while_the_other_goes_on(campaign, capsys):
    shards = rollouts.plan_collection(campaign, 1, None)
    alone = dataclasses.replace(
        campaign,
        settings=campaign.settings.model_copy(
            update={"serving": campaign.settings.serving.model_copy(update={"servers": 1})}
        ),
    )
    assert [each.id for each in shards] == [each.id for each in rollouts.plan_collection(alone, 1, None)]
    shares: list[int] = []
    killed: list[ModelServer] = []

    async def side_by_side(server: PolicyServer) -> None:
        def on_episode(trajectory) -> None:
            done.append(trajectory.id)
            if len(done) == 16:  # others are in flight at both
                first = server._server.servers[0]
                homes = Counter(seat.url for seat in actor._policy._client._homes.values())
                shares.extend(homes[each.url] for each in server._server.servers)
                killed.append(first)
                for process in processes_of(first._child.pid):
                    if process.pid != first._child.pid:
                        process.send_signal(signal.SIGKILL)

        done: list[str] = []
        about = {"adapter": None, "iteration": 1, "purpose": "collect", "on_episode": on_episode}
        async with rollouts.acting(campaign, server, shards[0], adapter=None) as actor:
            await asyncio.gather(*(rollouts.collect_shard(campaign, server, shard, **about) for shard in shards))
            policy = await actor.policy()
            while policy._replacing is not None and not policy._replacing.done():
                await asyncio.sleep(0.1)
            assert policy._client is not None and len(policy._client._seats) == 2

    with campaign.held(), policies(campaign) as server:
        asyncio.run(side_by_side(server))
        fresh, other = server._server.servers
        assert fresh is not killed[0] and fresh.alive() and other.alive()
        assert {each.url for each in server.endpoints} == {fresh.url, other.url}
    assert min(shares) >= 4, "both had their share of the sessions"
    told = capsys.readouterr().out
    assert told.count("vLLM is started again while the other servers go on") == 1
    assert "vLLM is started again:" not in told
    episodes = [each for shard in shards for each in read_shard(shard.path(campaign.settings.paths.shards))]
    assert len(episodes) == 64 and not any(each.status == "failed" for each in episodes)
    # what was in flight at the one was asked again at the other, in the middle of its episode
    assert not any(each.attempts for each in episodes)


@pytest.mark.parametrize(
    "cards, arguments, line",
    [
        ([CARD], (), "serving.servers: 2 servers need a GPU each, and CUDA has 1 here"),
        ([CARD] * 2, ("--tensor-parallel-size=2",), "serving.servers: each of 2 servers has one GPU; --tensor"),
        ([CARD] * 2, ("-tp", "2"), "serving.servers: each of 2 servers has one GPU; -tp"),
        ([CARD] * 2, (), None),
        ([], (), None),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, cards, arguments, line):
    monkeypatch.setattr(card, "present", lambda: bool(cards))
    monkeypatch.setattr(card, "cards", lambda: cards)
    serving = serving_settings(tmp_path, servers=2, extra_arguments=arguments).serving
    if line is None:
        server_group.check(serving)
        return
    with pytest.raises(SettingError, match=line):
        server_group.check(serving)


@pytest.mark.parametrize(
    "visible, expected", [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-aa,GPU-bb,GPU-cc", ["GPU-aa", "GPU-bb"])]
)
def test_each_server_sees_one_card(tmp_path, monkeypatch, visible, expected):
    monkeypatch.setattr(card, "cards", lambda: [CARD] * 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    there = Installation(
        tmp_path, "0.26.0", False, prefix=tmp_path, torch=tmp_path, headers=tmp_path, name="python3.11"
    )

    def told(place: Place) -> str | None:
        return command.environment(serving_settings(tmp_path), there, api_key="", place=place).get(
            "CUDA_VISIBLE_DEVICES"
        )

    assert [told(Place(number, 2)) for number in range(2)] == expected
    assert told(Place()) is None
