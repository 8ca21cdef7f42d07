"""What shards side by side gain: a collection of four, one after the other and as `agentloop run` plays them.

    python benchmarks/overlapping_shards.py [WORD …] [--shards 4] [--rounds 5]

Words are settings (model=… serving.dtype=bfloat16), after the demo's profile. Turns end at lengths that are drawn from their
seeds (agentloop.proof.rates), so that the work is alike. No plan is played twice, for vLLM would have its prompts cached: a
round has two plans, the ways take them in turns, and a first round warms up. Nothing is written. Prints JSON: seconds of each
round, how many times faster side by side is in each, their median and mean, and the same of all rounds together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time

import torch
import vllm

from agentloop import settings as configuration
from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.proof.rates import PacedPolicy, turn_lengths
from agentloop.rollout.collection import ShardPlan, plan, run_shard
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy


def planned(campaign: Campaign, shards: int, seed: int) -> list[ShardPlan]:
    size = campaign.settings.collect.shard_episodes
    tasks = campaign.environment.tasks("train", shards * size, seed)
    sampling = campaign.sampling(campaign.settings.collect.temperature)
    return plan(tasks, 1, policy="base", sampling=sampling, seed=seed, shard_episodes=size)


async def play(campaign: Campaign, server: PolicyServer, shards: list[ShardPlan], at_once: int) -> float:
    """Seconds that the shards take, so many at once."""
    settings = campaign.settings
    waiting, slots = list(shards), asyncio.Semaphore(settings.collect.concurrency)
    async with ServedPolicy(
        server, None, temperature=settings.collect.temperature, top_p=1.0, stop_token_ids=campaign.prompt.stop_token_ids
    ) as served:
        policy = PacedPolicy(served, turn_lengths(settings.agent.max_turn_tokens))

        async def take_turns() -> None:
            while waiting:
                await run_shard(
                    waiting.pop(0),
                    policy=policy,
                    prompt=campaign.prompt,
                    open_world=campaign.worlds.open,
                    limits=settings.collect,
                    slots=slots,
                )

        started = time.perf_counter()
        await asyncio.gather(*(take_turns() for _ in range(at_once)))
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        settings = configuration.load([f"paths.data={root}", *given.words], profile="demo")
        campaign = Campaign.open(settings)
        at_once = collect.shards_at_once(campaign, planned(campaign, given.shards, seed=0))
        ways = {"one_after_the_other": 1, "side_by_side": at_once}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with campaign.held(), policies(campaign) as server:
            campaign.worlds.start()
            for number in range(given.rounds + 1):
                for place, (way, at_once) in enumerate(list(ways.items())[:: 1 if number % 2 else -1]):
                    shards = planned(campaign, given.shards, seed=2 * number + place)
                    spent = asyncio.run(play(campaign, server, shards, at_once))
                    if number:
                        seconds[way].append(spent)
                        print(f"{number} {way} {spent:.1f} s", file=sys.stderr)
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    result = {
        "machine": f"{card}, {platform.machine()}",
        "versions": {"torch": torch.__version__, "vllm": vllm.__version__},
        "command": " ".join(["python", *sys.argv]),
        "shards": given.shards,
        "shard_episodes": settings.collect.shard_episodes,
        "in_flight": settings.collect.concurrency,
        "at_once": ways["side_by_side"],
        "seconds": {way: [round(each, 2) for each in spent] for way, spent in seconds.items()},
        "times_faster": [round(each, 3) for each in ratios],
        "median": round(statistics.median(ratios), 3),
        "mean": round(statistics.mean(ratios), 3),
        "all_together": round(sum(seconds["one_after_the_other"]) / sum(seconds["side_by_side"]), 3),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
