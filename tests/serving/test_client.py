"""The client against the real server: where requests go, what is tried again, what is given up.

Between them stand relays that can be cut. What happens to many requests at once when one is: test_outages.py.
"""

import asyncio
import time

import pytest
from conftest import random_prompt, running_requests
from relay import client_of, with_relays

from agentloop.errors import ServerError
from agentloop.serving.client import pause

PROMPT = random_prompt(8, 20)


def test_a_session_stays_and_new_ones_spread(server):
    async def test(left, right):
        async with client_of(left.endpoint, right.endpoint) as client:
            for _ in range(4):
                await client.complete("base", PROMPT, max_tokens=1, session="one")
            assert sorted((left.requests, right.requests)) == [0, 4]
            # Eight sessions at once go where least is in flight: half to each.
            before = left.requests, right.requests
            await asyncio.gather(
                *(client.complete("base", PROMPT, max_tokens=8, session=f"s{number}") for number in range(8))
            )
            assert (left.requests - before[0], right.requests - before[1]) == (4, 4)

    with_relays(server, 2, test)


def test_an_endpoint_that_fails_is_set_aside_and_comes_back(server):
    async def test(left, right):
        async with client_of(left.endpoint, right.endpoint) as client:
            await client.complete("base", PROMPT, max_tokens=1, session="one")
            home, other = (left, right) if left.requests else (right, left)
            await home.cut()
            # The connection is gone: the same request is tried again and answered, in the end by the other endpoint.
            await client.complete("base", PROMPT, max_tokens=1, session="one")
            assert other.requests == 1
            connections = home.connections
            for number in range(5):
                await client.complete("base", PROMPT, max_tokens=1, session=f"new{number}")
            assert home.connections == connections and other.requests == 6
            await home.mend()
            deadline = time.monotonic() + 20
            while home.requests < 2 and time.monotonic() < deadline:
                await asyncio.gather(*(client.complete("base", PROMPT, max_tokens=1) for _ in range(2)))
                await asyncio.sleep(0.1)
            assert home.requests >= 2

    with_relays(server, 2, test)


def test_a_connection_cut_in_the_middle_is_tried_again(server):
    async def test(relay):
        async with client_of(relay.endpoint) as client:
            whole = await client.complete("base", PROMPT, max_tokens=100, seed=5)
            running = asyncio.create_task(client.complete("base", PROMPT, max_tokens=100, seed=5))
            while relay.requests < 2:
                await asyncio.sleep(0.002)
            assert not running.done()
            await relay.cut()
            await relay.mend()
            assert (await running).token_ids == whole.token_ids
            assert relay.requests == 3

    with_relays(server, 1, test)


def test_an_answer_that_breaks_off_is_asked_for_again(server):
    async def test(relay):
        async with client_of(relay.endpoint) as client:
            whole = await client.complete("base", PROMPT, max_tokens=20, seed=6)
            relay.answers_to_break = 1
            assert (await client.complete("base", PROMPT, max_tokens=20, seed=6)).token_ids == whole.token_ids
            assert relay.requests == 3 and relay.answers_to_break == 0

    with_relays(server, 1, test)


def test_pauses_between_attempts_grow_up_to_a_limit_and_differ():
    for attempt, longest in [*enumerate((0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)), (10_000, 2.0)]:
        drawn = {pause(attempt) for _ in range(50)}
        assert longest / 2 <= min(drawn) < max(drawn) <= longest


def test_what_the_server_refuses_is_not_tried_again(server):
    async def test(relay):
        async with client_of(relay.endpoint) as client:
            with pytest.raises(ServerError, match="404 .*nobody"):
                await client.complete("nobody", PROMPT, max_tokens=1)
            with pytest.raises(ServerError, match="400 "):
                await client.complete("base", PROMPT * 100, max_tokens=1)
            assert relay.requests == 2

    with_relays(server, 1, test)


def test_cancelling_frees_the_request_on_the_server(server):
    async def run():
        async with client_of(server.endpoint) as client:

            def ask(seed):
                return client.complete("base", PROMPT[:2], max_tokens=500, seed=seed)

            answers = await asyncio.gather(*map(ask, range(16)))
            tasks = [
                asyncio.create_task(ask(seed))
                for seed, answer in enumerate(answers)
                if answer.finish_reason == "length"
            ]
            assert tasks, "no answer is long enough to be cancelled on the way"
            while await running_requests(server) == 0:
                await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            for _ in range(20):  # a few steps each, and without an end the others have hundreds to go
                await client.complete("base", PROMPT[:2], max_tokens=1)
                if await running_requests(server) == 0:
                    return
            raise AssertionError("the server goes on with requests that nobody waits for")

    asyncio.run(run())


def test_a_request_that_takes_too_long(server):
    async def run():
        async with client_of(server.endpoint, request_seconds=0.01) as client:
            with pytest.raises(ServerError, match="no answer within serving.request_seconds = 0.01"):
                await client.complete("base", PROMPT, max_tokens=400)

    asyncio.run(run())


def test_bounded_in_flight(server):
    async def test(relay):
        async with client_of(relay.endpoint, max_num_seqs=3) as client:
            await asyncio.gather(*(client.complete("base", PROMPT, max_tokens=4) for _ in range(12)))
            assert relay.requests == 12
            assert relay.connections <= 3

    with_relays(server, 1, test)
