"""Many episodes: planned by name before any is run, run concurrently, written as immutable shards.

A plan names every trajectory it will produce. A shard is named by the trajectories in it, so a shard that is on disk is
done, whoever wrote it, and a killed collection continues with the shards that are missing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agentloop.agent.episode import Generate, run_episode
from agentloop.agent.prompt import PromptFormat
from agentloop.backoff import pause
from agentloop.errors import ServerError
from agentloop.naming import content_id
from agentloop.records import Attempt, Sampling, Task, Trajectory, trajectory_id
from agentloop.settings import Collect
from agentloop.tools import Tool

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 8.0
"""Seconds before an episode is tried again, twice as long each time: what went wrong needs a moment to be mended."""


@dataclass(frozen=True)
class ShardPlan:
    """The episodes that one shard will hold."""

    policy: str
    sampling: Sampling
    seed: int
    episodes: tuple[tuple[Task, int], ...]
    """(task, sample index)"""

    @cached_property
    def trajectories(self) -> tuple[str, ...]:
        return tuple(
            trajectory_id(self.policy, task.id, sample, self.sampling, self.seed) for task, sample in self.episodes
        )

    @cached_property
    def id(self) -> str:
        return content_id("shard", list(self.trajectories))

    def path(self, root: Path) -> Path:
        return root / f"{self.id}.parquet"


def plan(
    tasks: Iterable[Task], samples: int, *, policy: str, sampling: Sampling, seed: int, shard_episodes: int
) -> list[ShardPlan]:
    """`samples` episodes of every task, in shards of at most `shard_episodes`."""
    episodes = [(task, sample) for task in tasks for sample in range(samples)]
    return [
        ShardPlan(policy, sampling, seed, tuple(episodes[first : first + shard_episodes]))
        for first in range(0, len(episodes), shard_episodes)
    ]


async def run_shard(
    shard: ShardPlan,
    *,
    generate: Generate,
    prompt: PromptFormat,
    tools: Callable[[Task], Mapping[str, Tool]],
    limits: Collect,
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[Trajectory]:
    """All episodes of a shard, at most `limits.concurrency` in flight, in the plan's order.

    An infrastructure failure or an episode past `limits.episode_seconds` is tried again with fresh tools, after a pause, and
    recorded in the trajectory's attempts; after `limits.attempts` failures it is raised and no episode of the shard is
    scored.
    """
    slots = asyncio.Semaphore(limits.concurrency)

    async def episode(task: Task, sample: int) -> Trajectory:
        attempts: list[Attempt] = []
        async with slots:
            while True:
                started = time.perf_counter()
                try:
                    async with asyncio.timeout(limits.episode_seconds):
                        trajectory = await run_episode(
                            task,
                            sample,
                            policy=shard.policy,
                            generate=generate,
                            prompt=prompt,
                            tools=tools(task),
                            sampling=shard.sampling,
                            seed=shard.seed,
                        )
                    break
                except (ServerError, TimeoutError) as error:
                    message = str(error) or f"episode took longer than {limits.episode_seconds:g} s"
                    attempts.append(Attempt(message, time.perf_counter() - started))
                    if len(attempts) == limits.attempts:
                        raise ServerError(
                            f"task {task.id} sample {sample}: {len(attempts)} attempts failed, the last: {message}"
                        ) from error
                    await asyncio.sleep(pause(len(attempts) - 1, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE))
        on_episode(trajectory)
        return dataclasses.replace(trajectory, attempts=tuple(attempts)) if attempts else trajectory

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(episode(task, sample)) for task, sample in shard.episodes]
    except* ServerError as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in running]
