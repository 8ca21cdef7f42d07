"""A vLLM that hangs while episodes are under way is replaced, and whoever waited is told why."""

import asyncio
import dataclasses
import signal
import threading

import pytest
from conftest import processes_of, random_prompt, serving_settings

from agentloop.campaign import collect as rollouts
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.errors import ServerError
from agentloop.serving.client import CompletionClient, Endpoint
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy
from agentloop.settings import Serving
from agentloop.store.shards import read_shard


@pytest.fixture(scope="module")
def campaign(checkpoint, tmp_path_factory) -> Campaign:
    settings = serving_settings(tmp_path_factory.mktemp("served"), request_seconds=20)
    return Campaign.open(settings.model_copy(update={"model": str(checkpoint)}))


async def ask(policy: ServedPolicy, seed: int):
    return await policy(random_prompt(1, 40), max_tokens=20, seed=seed, session=str(seed))


async def ask_patiently(policy: ServedPolicy, seed: int):
    """On a busy machine the first answer of a server may take longer than a hung one is waited for here."""
    for _ in range(10):
        try:
            return await ask(policy, seed)
        except ServerError:
            await policy.ready()
    return await ask(policy, seed)


def hurt(server: PolicyServer, number: int) -> None:
    """Send the signal to vLLM's processes, but not to the supervisor that they run under."""
    supervisor = server._server.servers[0]._child.pid
    for process in processes_of(supervisor):
        if process.pid != supervisor:
            process.send_signal(number)


@pytest.mark.slow
def test_a_hung_server_is_replaced(campaign):
    async def episodes(server: PolicyServer) -> None:
        async with ServedPolicy(server, None, temperature=1.0) as policy:
            first = await ask_patiently(policy, 1)
            assert await policy.lost() is None
            hurt(server, signal.SIGSTOP)
            failures = await asyncio.gather(*(ask(policy, seed) for seed in range(4)), return_exceptions=True)
            assert {type(each) for each in failures} == {ServerError}
            assert (await policy.lost()).startswith("vLLM hangs")
            await asyncio.gather(*(policy.ready() for _ in range(4)))
            assert await policy.lost() is None
            again = await ask_patiently(policy, 1)
            assert again.token_ids == first.token_ids
            # the last bits depend on what is asked beside it
            assert again.logprobs == pytest.approx(first.logprobs, abs=1e-4)

    with policies(campaign) as server:
        asyncio.run(episodes(server))


@pytest.mark.slow
def test_shards_side_by_side_share_one_replacement(campaign, capsys):
    """vLLM is killed under two shards at once: one new server, and no episode is held against anybody."""
    few = campaign.settings.collect.model_copy(update={"tasks": 16, "samples": 2, "shard_episodes": 16})
    short = campaign.settings.agent.model_copy(update={"max_turns": 2, "max_turn_tokens": 24})
    settings = campaign.settings.model_copy(update={"collect": few, "agent": short})
    own = dataclasses.replace(campaign, settings=settings)
    shards = rollouts.plan_collection(own, 1, None)
    assert len(shards) == 2

    async def side_by_side(server: PolicyServer) -> None:
        def hurt_once(trajectory) -> None:
            if not hurts:
                hurts.append(trajectory.id)
                hurt(server, signal.SIGKILL)

        hurts: list[str] = []
        about = {"adapter": None, "iteration": 1, "purpose": "collect", "on_episode": hurt_once}
        async with rollouts.acting(own, server, shards[0], adapter=None) as actor:
            await asyncio.gather(*(rollouts.collect_shard(own, server, shard, **about) for shard in shards))
            assert hurts and rollouts._ACTORS.get((shards[1].policy, shards[1].sampling)) is actor

    with own.held(), policies(own) as server:
        asyncio.run(side_by_side(server))
    assert capsys.readouterr().out.count("vLLM is started again") == 1
    episodes = [each for shard in shards for each in read_shard(shard.path(own.settings.paths.shards))]
    assert len(episodes) == 32 and not any(each.status == "failed" for each in episodes)
    assert any(each.attempts for each in episodes), "those that were under way were tried again"


class Standing:
    """In place of a PolicyServer, where what is tried is who waits for what: it is asked, and answers when it is let."""

    def __init__(self) -> None:
        self.serves, self.tells = threading.Event(), threading.Event()
        self.serves.set()
        self.asked = threading.Event()

    def serve(self, adapter):
        self.asked.set()
        assert self.serves.wait(30)
        return "base"

    size = 1

    def failures(self):
        self.asked.set()
        assert self.tells.wait(30)
        return {0: "vLLM ended"}

    def deaths(self):
        return {}

    def client(self):
        return CompletionClient([Endpoint("http://127.0.0.1:9", "none")], Serving())


async def asked(server: Standing) -> None:
    assert await asyncio.to_thread(server.asked.wait, 30)


def test_what_was_found_out_about_a_server_that_is_replaced_does_not_count_against_the_new_one():
    async def episodes() -> None:
        server = Standing()
        async with ServedPolicy(server, None) as policy:
            server.asked.clear()
            asking = asyncio.create_task(policy.lost())
            await asked(server)
            policy._lose("vLLM hangs")  # somebody else has noticed it sooner, and has it replaced
            await policy.ready()
            server.tells.set()
            await asking
            assert policy._lost is None

    asyncio.run(episodes())


def test_who_is_cancelled_while_vllm_starts_again_leaves_the_others_a_policy_that_answers():
    async def episodes() -> None:
        server = Standing()
        async with ServedPolicy(server, None) as policy:
            policy._lose("vLLM ended")
            server.asked.clear()
            server.serves.clear()
            first, second = (asyncio.create_task(policy.ready()) for _ in range(2))
            await asked(server)
            first.cancel()
            await asyncio.sleep(0)
            server.serves.set()
            await second
            assert policy._lost is None and not policy.given_up and policy._restarts == 1

    asyncio.run(episodes())
