"""A name that stands for another adapter in the middle of a request: what runs ends as it began, what comes is new."""

import asyncio
import json

import httpx
import pytest
from conftest import largest_gap, proof, random_prompt

from agentloop.errors import SettingError
from agentloop.serving import models
from agentloop.serving.command import Front

NAME = "champion"
TOKENS = 300


async def stream(server, http, model, prompt, swap=None):
    """(name in the answer, text) of a greedy completion; `swap` is called when its first words have come."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    names, words = set(), []
    async with http.stream("POST", f"{server.url}/v1/completions", json=body, headers=proof(server)) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            names.add(chunk["model"])
            words.append(chunk["choices"][0]["text"])
            if swap is not None:
                await asyncio.to_thread(swap)
                swap = None
    (name,) = names
    return name, "".join(words), len(words)


def test_a_request_that_runs_ends_with_the_weights_that_it_began_with(server, adapters):
    prompt = random_prompt(7, 24)

    async def ask():
        async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
            alone = [await stream(server, http, name, prompt) for name in ("adapter_0", "adapter_1")]
            server.alias(NAME, "adapter_0")
            running = await stream(server, http, NAME, prompt, lambda: server.alias(NAME, "adapter_1"))
            return alone, running, await stream(server, http, NAME, prompt)

    (old, new), running, later = asyncio.run(ask())
    assert running[2] > 10, "it was under way when the name was turned over"
    assert old[1] != new[1]
    assert running[:2] == old[:2] == ("adapter_0", old[1])
    assert later[:2] == new[:2] == ("adapter_1", new[1])


def test_a_cached_prompt_is_read_anew(server, adapters, reference, ask):
    prompt = random_prompt(8, 200)
    for name in ("adapter_2", "adapter_3", "adapter_2"):
        server.alias(NAME, name)
        for _ in range(2):
            served = ask(lambda client: client.prompt_logprobs(NAME, prompt))
            assert largest_gap(served, reference(adapters[name], prompt)) < 1e-3
    server.alias(NAME, server.model_name)
    served = ask(lambda client: client.prompt_logprobs(NAME, prompt))
    assert largest_gap(served, reference(None, prompt)) < 1e-3


def test_tokens_in_tokens_out(server, adapters, ask):
    server.alias(NAME, "adapter_1")
    about = {"max_tokens": 20, "temperature": 0.0, "seed": 1}
    first, second = (
        ask(lambda client, name=name: client.complete(name, random_prompt(9, 20), **about))
        for name in (NAME, "adapter_1")
    )
    assert first.token_ids == second.token_ids


def test_it_is_listed_and_takes_the_key(server, adapters):
    server.alias(NAME, "adapter_1")
    base, others = models.served(server.endpoint)
    assert base == server.model_name and {NAME, *adapters} <= set(others)
    refused = httpx.post(f"{server.url}/v1/alias", json={"name": NAME, "model": "adapter_0"}, trust_env=False)
    assert refused.status_code == 401
    unknown = httpx.post(
        f"{server.url}/v1/completions", json={"model": "nobody", "prompt": "x"}, headers=proof(server), trust_env=False
    )
    assert unknown.status_code == 404


def test_addresses():
    assert Front().on_loopback and Front("localhost").on_loopback
    everywhere = Front("0.0.0.0", aliases=True)
    assert not everywhere.on_loopback and everywhere.reached_at == "127.0.0.1"
    # vLLM asks the last one first: nothing is behind a middleware that has no door before it
    assert [each.rpartition(".")[2] for each in everywhere.middlewares] == ["Alias", "OpenServingDoor"]
    assert [each.rpartition(".")[2] for each in Front().middlewares] == ["ServingDoor"]
    with pytest.raises(SettingError, match="--host: '192.0.2.1' is no IPv4 address of this machine"):
        Front("192.0.2.1").on_loopback
