"""What a collected episode costs this project's own processes, and whether memory stays flat: many episodes against a stub.

    python benchmarks/rollout_load.py [--episodes 10000] [--concurrency 64] [--json benchmarks/results/rollout_load.json]

The stub is an HTTP server in a process of its own that answers as vLLM's endpoint for tokens does, with ids and log
probabilities, after `--latency` seconds; what it says is the expert's script of the arithmetic task, two or three calls of the
calculator and an answer. Everything else is real: client, episodes, tools in their processes, journal, shards, Prefect apart.
Counted is the CPU time, user and system, of this process and of the tools' processes from the first episode to the last shard,
without the stub; and the resident memory of both, every 1,000 episodes.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from agentloop import settings as configuration
from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign
from agentloop.records import Trajectory
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.client import GENERATE, CompletionClient, Endpoint
from agentloop.teaching import experts

SAMPLES = 8
EVERY = 1000
"""Episodes from one look at the memory to the next."""


def opened(root: Path, *words: str) -> Campaign:
    return Campaign.open(configuration.load([f"paths.data={root}", *words], profile="demo"))


def serve(root: Path, tasks: int, latency: float, words: list[str]) -> None:
    """The stub: prints its port, and answers until it is ended."""
    import orjson
    from aiohttp import web

    campaign = opened(root, *words)
    prompt, chance = campaign.prompt, random.Random(0)
    said: dict[tuple[int, ...], list[bytes]] = {}
    for script in experts.scripts(campaign.environment, campaign.environment.tasks("train", tasks, 0)):
        answers = []
        for turn in script.turns:
            ids = prompt.spoken(turn)
            content = [{"token": f"token_id:{each}", "logprob": -chance.expovariate(2.0)} for each in ids]
            choice = {"index": 0, "token_ids": ids, "finish_reason": "stop", "logprobs": {"content": content}}
            answers.append(orjson.dumps({"request_id": "stub", "choices": [choice]}))
        said[tuple(prompt.opening(script.task.question))] = answers
    end = prompt.opening("")[0:0] + [prompt.stop_token_ids[0]]

    async def generate(request: web.Request) -> web.Response:
        ids = orjson.loads(await request.read())["token_ids"]
        first = ids.index(end[0])  # of the question; the opening has three more tokens and what `model` is encoded to
        opening = lengths[tuple(ids[: first + 1])]
        await asyncio.sleep(latency)
        return web.Response(body=said[tuple(ids[:opening])][prompt.turns_spoken(ids)], content_type="application/json")

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    lengths = {each[: each.index(end[0]) + 1]: len(each) for each in said}

    async def run() -> None:
        application = web.Application()
        application.add_routes([web.post(GENERATE, generate), web.get("/health", health)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


class StubServer:
    """The stub in the place of a `PolicyServer`."""

    def __init__(self, endpoint: Endpoint, campaign: Campaign) -> None:
        self._endpoint, self._serving = endpoint, campaign.settings.serving

    def serve(self, adapter: str | None) -> str:
        return "base"

    def client(self) -> CompletionClient:
        return CompletionClient([self._endpoint], self._serving)

    @property
    def size(self) -> int:
        return 1

    def deaths(self) -> dict[int, str]:
        return {}

    def failures(self) -> dict[int, str]:
        return {}


class Meter:
    """CPU time and memory of this process and the tools' processes."""

    def __init__(self, campaign: Campaign) -> None:
        self._host = psutil.Process(campaign.worlds._host.pid)
        self._own = psutil.Process()

    def cpu(self) -> dict[str, float]:
        """Seconds so far, user and system."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        tools = 0.0
        for process in [self._host, *self._host.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            tools += times.user + times.system
            if process == self._host:
                tools += times.children_user + times.children_system
        return {"collector": own.ru_utime + own.ru_stime, "tools": tools}

    def memory(self) -> dict[str, float]:
        """MiB: resident of this process, and what the tools' processes have together, each shared page once."""
        tools = 0
        for process in [self._host, *self._host.children(recursive=True)]:
            try:
                tools += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return {"collector": self._own.memory_info().rss / 2**20, "tools": tools / 2**20}


async def collect_all(
    campaign: Campaign, server: Any, shards: list[ShardPlan], on_episode: Callable[[Trajectory], None]
) -> None:
    """As many shards at once as `agentloop run` plays."""
    waiting = list(shards)

    async def take_turns() -> None:
        while waiting:
            await collect.collect_shard(
                campaign, server, waiting.pop(0), adapter=None, iteration=1, purpose="collect", on_episode=on_episode
            )

    async with collect.acting(campaign, server, shards[0], adapter=None):
        await asyncio.gather(*(take_turns() for _ in range(collect.shards_at_once(campaign, shards))))


def measure(root: Path, given: argparse.Namespace) -> dict[str, Any]:
    tasks = -(-given.episodes // SAMPLES)
    words = [f"collect.tasks={tasks}", f"collect.samples={SAMPLES}", f"collect.concurrency={given.concurrency}"]
    words += [f"collect.shard_episodes={given.shard_episodes}", f"serving.max_num_seqs={given.concurrency}", *given.set]
    campaign = opened(root, *words)
    command = [sys.executable, __file__, "--stub", str(root), str(tasks), str(given.latency), *words]
    stub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    looks: list[dict[str, Any]] = []
    statuses: dict[str, int] = {}
    turns = done = 0
    try:
        server = StubServer(Endpoint(f"http://127.0.0.1:{int(stub.stdout.readline())}", "none"), campaign)
        shards = collect.plan_collection(campaign, 1, None)
        with campaign.held():
            campaign.worlds.start()
            meter = Meter(campaign)

            def on_episode(trajectory: Trajectory) -> None:
                nonlocal done, turns
                done += 1
                turns += sum(turn.role == "model" for turn in trajectory.turns)
                statuses[trajectory.status] = statuses.get(trajectory.status, 0) + 1
                if done % EVERY == 0:
                    looks.append({"episodes": done, "memory_mib": meter.memory()})

            gc.collect()
            before, began = meter.cpu(), time.perf_counter()
            if given.profile:
                import cProfile

                profile = cProfile.Profile(time.thread_time)
                profile.runcall(asyncio.run, collect_all(campaign, server, shards, on_episode))
                profile.dump_stats(given.profile)
            else:
                asyncio.run(collect_all(campaign, server, shards, on_episode))
            after, seconds = meter.cpu(), time.perf_counter() - began
    finally:
        stub.kill()
        stub.wait()
    spent = {name: 1e3 * (after[name] - before[name]) / done for name in after}
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}, orjson {version('orjson')}, pyarrow {version('pyarrow')}",
        "load_average": os.getloadavg()[0],
        "command": " ".join(["python", "benchmarks/rollout_load.py", *sys.argv[1:]]),
        "episodes": done,
        "turns_of_the_model": turns,
        "statuses": statuses,
        "concurrency": given.concurrency,
        "shards": len(shards),
        "seconds": seconds,
        "cpu_ms_per_episode": spent | {"together": sum(spent.values())},
        "cpu_ms_per_turn": sum(spent.values()) * done / turns,
        "memory_every_1000_episodes": looks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--shard-episodes", type=int, default=512)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the stub waits with an answer")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting")
    parser.add_argument("--profile", type=Path, help="write cProfile's statistics there; the figures are then none")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollouts-") as directory:
        found = json.dumps(measure(Path(directory), given), indent=2)
    print(found)
    if given.json:
        given.json.write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stub"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])
    else:
        main()
