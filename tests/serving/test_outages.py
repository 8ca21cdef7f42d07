"""Many requests at once when their endpoint goes away: a short outage costs none of them, a long one ends in one line."""

import asyncio
import dataclasses
from functools import partial

import pytest
from conftest import random_prompt, serving_settings
from plain_policy import PlainPolicy
from relay import client_of, with_relays

from agentloop.campaign.campaign import Campaign
from agentloop.errors import FailureBudgetError, ServerError
from agentloop.rollout.collection import plan, run_shard

MANY = 64
PROMPT = random_prompt(9, 20)


def complete(client, seed: int, **options):
    return client.complete("base", PROMPT, max_tokens=12, seed=seed, **options)


async def while_in_flight(tasks, *relays, requests: int = MANY) -> None:
    """Return when so many requests have passed and none was answered."""
    while sum(relay.requests for relay in relays) < requests:
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(0.005)
    assert not any(task.done() for task in tasks)


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_a_short_outage_loses_no_request(server, seconds):
    """Of 64 in flight, nor of 64 that come while connections are refused."""

    async def test(relay):
        async with client_of(relay.endpoint) as client:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(complete(client, seed)) for seed in range(MANY)]
                await while_in_flight(running, relay)
                await relay.cut()
                later = [group.create_task(complete(client, seed)) for seed in range(MANY)]
                await asyncio.sleep(seconds)
                await relay.mend()
            assert all(len(task.result().logprobs) > 0 for task in running + later)
            # One outage, and it is over: nothing is set aside, nothing was asked for more often than it had to be.
            assert relay.requests <= 3 * MANY
            before = relay.requests
            await complete(client, 0)
            assert relay.requests == before + 1

    with_relays(server, 1, test)


def test_one_of_two_endpoints_dies_for_good(server):
    """Its sessions move to the other, once, and stay there, also through an outage of that one."""

    async def test(left, right):
        async with client_of(left.endpoint, right.endpoint) as client:

            async def episode(number: int) -> None:
                for turn in range(2):
                    await complete(client, turn, session=f"episode {number}")

            async with asyncio.TaskGroup() as group:
                running = [group.create_task(episode(number)) for number in range(MANY)]
                await while_in_flight(running, left, right)
                assert left.requests == right.requests == MANY // 2
                await left.cut()
            assert left.requests == MANY // 2
            async with asyncio.TaskGroup() as group:
                before = right.requests
                running = [group.create_task(episode(number)) for number in range(MANY)]
                await while_in_flight(running, right, requests=before + MANY)
                await right.cut()
                await asyncio.sleep(0.3)
                await right.mend()
            assert left.requests == MANY // 2

    with_relays(server, 2, test)


def test_an_endpoint_that_is_gone_is_one_line_and_may_come_back(server):
    async def test(relay):
        async with client_of(relay.endpoint, request_seconds=3) as client:
            await complete(client, 0)
            await relay.cut()
            outcomes = await asyncio.gather(*(complete(client, seed) for seed in range(MANY)), return_exceptions=True)
            assert {str(error) for error in outcomes} == {f"no endpoint answers: {relay.endpoint.url}"}
            assert all(isinstance(error, ServerError) for error in outcomes)
            # The outage is older than a request may last; who comes now still waits for the next probe.
            waiting = asyncio.create_task(complete(client, 0))
            await asyncio.sleep(0)
            await relay.mend()
            await waiting

    with_relays(server, 1, test)


@pytest.fixture(scope="module")
def campaign(checkpoint, tmp_path_factory) -> Campaign:
    settings = serving_settings(tmp_path_factory.mktemp("outages"))
    return Campaign.open(settings.model_copy(update={"model": str(checkpoint)}))


async def collect(campaign, client, attempts: int = 3):
    """64 episodes at once."""
    sampling = dataclasses.replace(campaign.sampling(1.0), max_turns=2, max_turn_tokens=12)
    tasks = campaign.environment.tasks("train", MANY, 0)
    [shard] = plan(tasks, 1, policy="base", sampling=sampling, seed=0, shard_episodes=MANY)

    with campaign.worlds:
        return await run_shard(
            shard,
            policy=PlainPolicy(partial(client.complete, "base")),
            prompt=campaign.prompt,
            open_world=campaign.worlds.open,
            limits=campaign.settings.collect.model_copy(update={"concurrency": MANY, "attempts": attempts}),
        )


def test_a_shard_outlives_short_outages(server, campaign):
    """First nobody listens, then a proxy answers 503: the first is the client's to mend, the second costs an attempt."""

    async def test(relay):
        async with client_of(relay.endpoint) as client:
            collecting = asyncio.create_task(collect(campaign, client))
            await while_in_flight([collecting], relay)
            await relay.cut()
            await asyncio.sleep(0.3)
            relay.unavailable = True
            await relay.mend()
            while relay.refused < MANY and not collecting.done():
                await asyncio.sleep(0.005)
            relay.unavailable = False
            trajectories = await collecting
        assert len(trajectories) == MANY
        attempts = [attempt for trajectory in trajectories for attempt in trajectory.attempts]
        assert MANY <= len(attempts) <= 2 * MANY
        assert {attempt.error for attempt in attempts} == {f"{relay.endpoint.url}: 503 "}

    with_relays(server, 1, test)


def test_a_shard_without_a_server_is_one_line(server, campaign):
    async def test(relay):
        async with client_of(relay.endpoint, request_seconds=1) as client:
            await relay.cut()
            message = (
                f"^collect.max_failed: 4 of {MANY} episodes failed.*: 4 × no endpoint answers: {relay.endpoint.url}$"
            )
            with pytest.raises(FailureBudgetError, match=message):
                await collect(campaign, client, attempts=2)

    with_relays(server, 1, test)
