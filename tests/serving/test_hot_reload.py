"""Adapters change under load; every request is answered by the adapter that it named."""

import asyncio

import pytest
from conftest import largest_gap, random_prompt, write_adapter

from agentloop.errors import ServerError

TOLERANCE = 1e-3


def test_ten_adapters_in_a_row_under_load(server, ask, reference, checkpoint, tmp_path):
    names = [f"adapter_row{index}" for index in range(10)]
    paths = {name: write_adapter(tmp_path / name, checkpoint, seed=100 + index) for index, name in enumerate(names)}
    # The same prompts for all: a prefix cache that confused two adapters would show.
    prompts = [random_prompt(seed, 140) for seed in range(2)]
    answers = []

    async def question(client):
        async def ask_once(name, number):
            ids = prompts[number % len(prompts)]
            answers.append((name, ids, await client.complete(name, ids, max_tokens=12, seed=number)))

        async def ask_base(stop):
            while not stop.is_set():
                await ask_once("base", len(answers))

        stop = asyncio.Event()
        base = asyncio.create_task(ask_base(stop))
        loaded = []
        for name in names:
            # Requests to the adapters before this one are in flight while it is loaded and the oldest is unloaded.
            running = [asyncio.create_task(ask_once(older, number)) for older in loaded for number in range(2)]
            await asyncio.sleep(0.01)
            await asyncio.to_thread(server.load_adapter, name, paths[name])
            loaded.append(name)
            await asyncio.gather(*(ask_once(name, number) for number in range(2)), *running)
            if len(loaded) == 3:
                await asyncio.to_thread(server.unload_adapter, loaded.pop(0))
        stop.set()
        await base
        for name in loaded:
            await asyncio.to_thread(server.unload_adapter, name)

    ask(question)
    assert {name for name, _, _ in answers} == {"base", *names}
    for name, ids, completion in answers:
        expected = reference(paths.get(name), [*ids, *completion.token_ids])[len(ids) - 1 :]
        assert largest_gap(completion.logprobs, expected) < TOLERANCE, name


def test_an_unloaded_adapter_is_not_answered_by_the_base(server, ask, checkpoint, tmp_path):
    server.load_adapter("adapter_short", write_adapter(tmp_path / "a", checkpoint, seed=7))
    server.unload_adapter("adapter_short")
    with pytest.raises(ServerError, match="adapter_short"):
        ask(lambda client: client.complete("adapter_short", [2, 7], max_tokens=1))
