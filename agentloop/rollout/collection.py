"""Many episodes: planned by name before any is run, run concurrently, written as immutable shards.

A plan names every trajectory it will produce. A shard is named by the trajectories in it, so a shard that is on disk is
done, whoever wrote it, and a killed collection continues with the shards that are missing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from agentloop.backoff import pause
from agentloop.errors import AgentloopError, FailureBudgetError
from agentloop.naming import content_id
from agentloop.records import Attempt, Sampling, Task, Trajectory, trajectory_id
from agentloop.rollout.episode import Generate, run_episode, session_of
from agentloop.rollout.prompt import PromptFormat
from agentloop.settings import Collect
from agentloop.text import one_line

_CAUSES = 3
"""In the summary of a run that stops because too much fails."""
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
    give_up_after: int | None = None
    """Samples after which a task that none of them has solved gets no more; the shard then holds all samples of its tasks.
    None: never."""
    temperatures: tuple[float, ...] = ()
    """Sampling temperatures of a task's samples, in turn; none: all have that of `sampling`."""

    def sampling_of(self, sample: int) -> Sampling:
        """Return how this sample of each task is sampled."""
        if not self.temperatures:
            return self.sampling
        return _tempered(self.sampling, self.temperatures[sample % len(self.temperatures)])

    @cached_property
    def trajectories(self) -> tuple[str, ...]:
        return tuple(
            trajectory_id(self.policy, task.id, sample, self.sampling_of(sample), self.seed)
            for task, sample in self.episodes
        )

    @cached_property
    def id(self) -> str:
        names = list(self.trajectories)
        given_up = {"given_up_after": self.give_up_after}
        return content_id(
            "shard", names if self.give_up_after is None else [names, given_up]
        )  # as store.shards.shard_id

    def path(self, root: Path) -> Path:
        return root / f"{self.id}.parquet"


def plan(
    tasks: Iterable[Task],
    samples: int,
    *,
    policy: str,
    sampling: Sampling,
    seed: int,
    shard_episodes: int,
    give_up_after: int | None = None,
    temperatures: tuple[float, ...] = (),
) -> list[ShardPlan]:
    """`samples` episodes of every task, in shards of at most `shard_episodes`. Where tasks may be given up, the samples of one
    are in one shard. `temperatures`: as in `ShardPlan`."""
    episodes = [(task, sample) for task in tasks for sample in range(samples)]
    if give_up_after is None or give_up_after >= samples:
        give_up_after = None
    else:
        shard_episodes = max(1, shard_episodes // samples) * samples
    shards = in_shards(episodes, policy=policy, sampling=sampling, seed=seed, shard_episodes=shard_episodes)
    return [dataclasses.replace(each, give_up_after=give_up_after, temperatures=temperatures) for each in shards]


def in_shards(
    episodes: Sequence[tuple[Task, int]], *, policy: str, sampling: Sampling, seed: int, shard_episodes: int
) -> list[ShardPlan]:
    """These episodes, (task, sample index), in shards of at most `shard_episodes`."""
    return [
        ShardPlan(policy, sampling, seed, tuple(episodes[first : first + shard_episodes]))
        for first in range(0, len(episodes), shard_episodes)
    ]


@cache
def _tempered(sampling: Sampling, temperature: float) -> Sampling:
    return dataclasses.replace(sampling, temperature=temperature)


class Policy(Generate, Protocol):
    """A policy that may be out of reach for a while. Where a plan has `temperatures`, each call is given its own."""

    async def ready(self) -> None:
        """Return as soon as it answers. Raises ServerError where it has been lost too often."""

    async def lost(self) -> str | None:
        """After a request that failed: why the policy is out of reach, None where it answers."""


Solved = Callable[[Trajectory], Awaitable[bool]]
"""Says whether an episode that has ended was solved."""


class OpenWorld(Protocol):
    """Gives an episode its world: fresh tools, in a process that can be killed."""

    def __call__(self, task: Task, *, session: str) -> AbstractAsyncContextManager[Any]: ...


class Play(Protocol):
    """Plays one episode in its world to its end. Whatever it raises ends this attempt at the episode."""

    async def __call__(
        self,
        task: Task,
        sample: int,
        *,
        policy: str,
        generate: Generate,
        prompt: PromptFormat,
        world: Any,
        sampling: Sampling,
        seed: int,
    ) -> Trajectory: ...


async def run_shard(
    shard: ShardPlan,
    *,
    policy: Policy,
    prompt: PromptFormat,
    open_world: OpenWorld,
    limits: Collect,
    play: Play = run_episode,
    slots: asyncio.Semaphore | None = None,
    played: Mapping[str, Trajectory] = {},
    solved: Solved | None = None,
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[Trajectory]:
    """All episodes of a shard, at most `limits.concurrency` in flight, in the plan's order.

    `play`: who acts in the worlds that `open_world` opens; by default this project's own agent.
    `slots`: those that it shares with other shards, instead: whose episodes were first to wait for one are first to get it.
    `played`: episodes, by id, that were finished before and are taken as they are.
    `solved`: asked about the first samples of each task where the plan gives tasks up.
    `on_episode`: told of every other episode as soon as it has ended; what it raises ends the shard.

    Whatever an attempt at an episode raises, and an attempt past `limits.episode_seconds`, is kept among the trajectory's
    attempts, and the episode is tried again in a fresh world after a pause. After `limits.attempts` of them it has failed.
    Attempts that ended because the policy was lost do not count: they say nothing of the episode.

    Whether a task is given up rests on its first samples alone, in whatever order they end; while one of them is missing, or
    where infrastructure kept one from finishing, it is not. Its other samples are then `not_sampled`.

    Raises FailureBudgetError, with a summary, as soon as more than `limits.max_failed` have failed, and ServerError where
    the policy is lost for good.
    """
    slots = slots or asyncio.Semaphore(limits.concurrency)
    budget = FailureBudget(limits.max_failed, of=len(shard.episodes))

    def about(sample: int) -> dict[str, Any]:
        return {"policy": shard.policy, "sampling": shard.sampling_of(sample), "seed": shard.seed}

    def generate(sample: int) -> Generate:
        if not shard.temperatures:
            return policy
        return partial(policy, temperature=shard.sampling_of(sample).temperature)  # type: ignore[call-arg]

    async def episode(task: Task, sample: int) -> Trajectory:
        if (group := groups.get(task.id)) is None:
            return await played_out(task, sample)
        if sample < group.first:
            trajectory = await played_out(task, sample)
            await group.note(trajectory)
        elif await group.given_up:
            trajectory = not_sampled(task, sample, **about(sample))
            on_episode(trajectory)
        else:
            trajectory = await played_out(task, sample)
        return trajectory

    async def played_out(task: Task, sample: int) -> Trajectory:
        attempts: list[Attempt] = []
        counted = 0
        name = session_of(shard.policy, task, sample, shard.seed)
        async with slots:
            while True:
                await policy.ready()
                session = f"{name}/{len(attempts)}"  # a fault that chance brought is not brought again
                started = time.perf_counter()
                try:
                    async with asyncio.timeout(limits.episode_seconds), open_world(task, session=session) as world:
                        acting = {"generate": generate(sample), "prompt": prompt, "world": world}
                        trajectory = await play(task, sample, **acting, **about(sample))
                    break
                except Exception as error:  # nothing that happens in an episode ends more than this attempt at it
                    message = _told(error, limits)
                if reason := await policy.lost():
                    message = reason
                else:
                    counted += 1
                attempts.append(Attempt(message, time.perf_counter() - started))
                if counted == limits.attempts:
                    trajectory = unfinished(task, sample, **about(sample))
                    budget.spend(message)
                    break
                await asyncio.sleep(pause(len(attempts) - 1, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE))
        if attempts:
            trajectory = dataclasses.replace(trajectory, attempts=tuple(attempts))
        on_episode(trajectory)
        return trajectory

    groups = _groups(shard, solved)
    try:
        async with asyncio.TaskGroup() as tasks:
            for name, (task, sample) in zip(shard.trajectories, shard.episodes, strict=True):
                if name in played and task.id in groups and sample < groups[task.id].first:
                    tasks.create_task(groups[task.id].note(played[name]))
            running = {
                name: tasks.create_task(episode(task, sample))
                for name, (task, sample) in zip(shard.trajectories, shard.episodes, strict=True)
                if name not in played
            }
    except* Exception as failures:
        raise (failures.subgroup(AgentloopError) or failures).exceptions[0] from None
    return [played[name] if name in played else running[name].result() for name in shard.trajectories]


class _Group:
    """The samples of one task, of which the first decide whether there are others."""

    def __init__(self, first: int, solved: Solved) -> None:
        self.first = first
        self.given_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._solved = solved
        self._unsolved = 0

    async def note(self, trajectory: Trajectory) -> None:
        """Take one of the first samples into account. Raises as `solved` does."""
        if self.given_up.done():
            return
        # nobody knows what came of an episode that has failed
        goes_on = trajectory.status == "failed" or await self._solved(trajectory)
        self._unsolved += not goes_on
        if not self.given_up.done() and (goes_on or self._unsolved == self.first):
            self.given_up.set_result(not goes_on)


def _groups(shard: ShardPlan, solved: Solved | None) -> dict[str, _Group]:
    """By task; none where no task is given up."""
    if shard.give_up_after is None:
        return {}
    if solved is None:
        raise ValueError("who gives tasks up has to be told what is solved")
    return {task.id: _Group(shard.give_up_after, solved) for task, _ in shard.episodes}


class FailureBudget:
    """A count of the episodes of a shard that may fail for good."""

    def __init__(self, limit: float, *, of: int) -> None:
        """`limit`: below 1 a share of the `of` episodes, of which at least one may fail; from 1 on a number."""
        self._limit, self._episodes = limit, of
        self._allowed = max(1, math.floor(limit * of)) if 0 < limit < 1 else math.floor(limit)
        self._failures: Counter[str] = Counter()

    def spend(self, failure: str) -> None:
        """Count a failed episode. Raises FailureBudgetError once there are too many."""
        self._failures[failure] += 1
        if self._failures.total() > self._allowed:
            causes = "; ".join(f"{count} × {cause}" for cause, count in self._failures.most_common(_CAUSES))
            raise FailureBudgetError(
                f"collect.max_failed: {self._failures.total()} of {self._episodes} episodes failed, "
                f"more than {self._limit:g} allows: {causes}"
            )


def unfinished(task: Task, sample: int, *, policy: str, sampling: Sampling, seed: int) -> Trajectory:
    """The record of an episode that failed for good."""
    return Trajectory(policy, task, sample, sampling, seed, "failed", None, (), (), (), (), 0.0)


def not_sampled(task: Task, sample: int, *, policy: str, sampling: Sampling, seed: int) -> Trajectory:
    """The record of an episode that was not begun, because its task was given up."""
    return Trajectory(policy, task, sample, sampling, seed, "not_sampled", None, (), (), (), (), 0.0)


def _told(error: Exception, limits: Collect) -> str:
    if isinstance(error, TimeoutError):
        return f"the episode took longer than collect.episode_seconds = {limits.episode_seconds:g}"
    return str(error) if isinstance(error, AgentloopError) else one_line(error)
