"""Rollouts: a policy on many tasks, through vLLM, into shards, into the database, scored."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from agentloop import environments, records
from agentloop.at_hand import AtHand
from agentloop.campaign import suites
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.shard import OnEpisode, complete
from agentloop.campaign.suites import Suite
from agentloop.curation import scoring
from agentloop.environments import model_judge
from agentloop.errors import ShardError
from agentloop.recording.recorder import Recorder
from agentloop.records import SOLVED, Trajectory
from agentloop.rollout.collection import OpenWorld, Play, ShardPlan, plan, run_shard
from agentloop.rollout.episode import run_episode
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy
from agentloop.store import policies, pruned, trainable
from agentloop.store.ingest import ingest, taken
from agentloop.store.shards import Purpose, is_whole
from agentloop.verification import SUCCESS, scored


def plan_collection(
    campaign: Campaign, iteration: int, adapter: str | None, *, most: int | None = None, whole: bool = False
) -> list[ShardPlan]:
    """The shards of training rollouts of an iteration, by the policy with this adapter, of `most` tasks at most.

    `whole`: no task is given up, whatever collect.give_up_after says: for a measurement.

    Raises SettingError where the environment has too few training tasks.
    """
    collect = campaign.settings.collect
    with suites.enough("collect.tasks"):
        tasks = campaign.training_tasks(iteration)[:most]
    return plan(
        tasks,
        collect.samples,
        policy=campaign.policy(adapter).id,
        sampling=campaign.sampling(collect.temperature),
        seed=campaign.settings.seed,
        shard_episodes=collect.shard_episodes,
        give_up_after=None if whole else collect.give_up_after,
        temperatures=collect.temperatures,
    )


def plan_evaluation(campaign: Campaign, adapter: str | None, suite: Suite) -> list[ShardPlan]:
    """The shards of held-out rollouts of the policy with this adapter: the same tasks, samples and seeds for every policy."""
    return [
        shard
        for block in suite.blocks
        for shard in plan(
            block,
            suite.samples,
            policy=campaign.policy(adapter).id,
            sampling=campaign.sampling(campaign.settings.evaluate.temperature),
            seed=campaign.settings.seed if suite.seed is None else suite.seed,
            shard_episodes=campaign.settings.collect.shard_episodes,
        )
    ]


class Actor:
    """A policy at play, which shards that are collected at once share: one connection, and slots for episodes in flight."""

    def __init__(self, connect: Callable[[], ServedPolicy], slots: int, open_world: OpenWorld, play: Play) -> None:
        """`connect` makes a policy that is not connected yet; so many `slots` are there for episodes, which `play` plays in the
        worlds that `open_world` opens.
        """
        self.slots = asyncio.Semaphore(slots)
        self.open_world, self.play = open_world, play
        self._connect = connect
        self._policy: ServedPolicy | None = None
        self._connecting = asyncio.Lock()
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Actor:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._opened.aclose()

    async def policy(self) -> ServedPolicy:
        """Return the policy, connected; another one where it has given up. Raises as `PolicyServer.serve` does."""
        async with self._connecting:
            if self._policy is None or self._policy.given_up:
                self._policy = await self._opened.enter_async_context(self._connect())
            return self._policy


_ACTORS: AtHand[Actor] = AtHand()


@asynccontextmanager
async def acting(
    campaign: Campaign, server: PolicyServer, shard: ShardPlan, *, adapter: str | None
) -> AsyncIterator[Actor]:
    """The actor for shards like this one: that of the block around this one, or a new one. Raises WorldError, SettingError."""
    role = (shard.policy, shard.sampling)
    if (actor := _ACTORS.get(role)) is not None:
        yield actor
        return

    def connect() -> ServedPolicy:
        return ServedPolicy(
            server,
            adapter,
            temperature=shard.sampling.temperature,
            top_p=shard.sampling.top_p,
            stop_token_ids=campaign.prompt.stop_token_ids,
        )

    async with stage(campaign) as (open_world, play):
        async with Actor(connect, campaign.settings.collect.concurrency, open_world, play) as actor:
            with _ACTORS.holding(role, actor):
                yield actor


@asynccontextmanager
async def stage(campaign: Campaign) -> AsyncIterator[tuple[OpenWorld, Play]]:
    """Open the place where episodes are played, and give who plays there: this project's agent with tools, or one of one's own.

    Raises WorldError, SettingError.
    """
    if campaign.settings.agent.command is None:
        campaign.worlds.start()
        yield campaign.worlds.open, run_episode
        return
    campaign.agents.start()
    async with Recorder(campaign.agents) as recorder:
        yield recorder.open, recorder.play


def shards_at_once(campaign: Campaign, shards: Sequence[ShardPlan]) -> int:
    """Return how many to play at once, so that the next one has episodes for every slot that the slowest leave."""
    smallest = min(len(shard.episodes) for shard in shards)
    return 1 + math.ceil(campaign.settings.collect.concurrency / smallest)


def missing(campaign: Campaign, shards: Sequence[ShardPlan], *, iteration: int, purpose: Purpose) -> list[ShardPlan]:
    """Return the shards that are still to be played: those that are not there, and were not pruned after they had been used."""
    absent = [shard for shard in shards if not is_collected(campaign, shard)]
    if not absent:
        return []
    with campaign.database() as database:
        gone = pruned.shards(database)
        used = taken(database, [shard.id for shard in absent if shard.id in gone], campaign.name, iteration, purpose)
    return [shard for shard in absent if shard.id not in used]


def is_collected(campaign: Campaign, shard: ShardPlan) -> bool:
    return is_whole(shard.path(campaign.settings.paths.shards))


async def collect_shard(
    campaign: Campaign,
    server: PolicyServer,
    shard: ShardPlan,
    *,
    adapter: str | None,
    iteration: int,
    purpose: Purpose,
    on_episode: OnEpisode = lambda trajectory: None,
) -> str:
    """Play the shard's episodes that are not finished yet and write it, unless it is there. Returns its id."""
    if is_collected(campaign, shard):
        return shard.id

    async def play(played: Mapping[str, Trajectory], ended: OnEpisode) -> list[Trajectory]:
        async with acting(campaign, server, shard, adapter=adapter) as actor:
            policy = await actor.policy()
            episodes = await run_shard(
                shard,
                policy=policy,
                prompt=campaign.prompt,
                open_world=actor.open_world,
                play=actor.play,
                limits=campaign.settings.collect,
                slots=actor.slots,
                played=played,
                solved=partial(_solved, campaign),
                on_episode=ended,
            )
            policy.shard_done()
            return episodes

    await complete(campaign, shard, play, iteration=iteration, purpose=purpose, on_episode=on_episode)
    return shard.id


async def _solved(campaign: Campaign, trajectory: Trajectory) -> bool:
    """As the verifier says, which may take its time. Raises StoreError where it fails."""
    task = trajectory.task
    who = f"environment {task.environment!r}: its verifier"

    def score() -> float:
        with model_judge.kept_in(campaign.settings.paths.judgements):
            by = environments.get(task.environment)
            return scored(by, task, trajectory.answer, trajectory.outcome, who=who)[SUCCESS]

    return await asyncio.to_thread(score) >= SOLVED


def ingest_shards(
    campaign: Campaign, shards: Sequence[ShardPlan], *, adapter: str | None, iteration: int, purpose: Purpose
) -> dict[str, int]:
    """Take the shards into the database and score what is new. Returns counts."""
    counts = take_in(campaign, shards, policy=campaign.policy(adapter), iteration=iteration, purpose=purpose)
    if unsampled := counts.get("not_sampled"):
        print(f"{unsampled} episodes were not sampled: their tasks were given up (collect.give_up_after)")
    if campaign.settings.agent.command is not None and purpose == "collect":
        with campaign.database() as database:
            if line := trainable.told(database, campaign.name, iteration):
                print(line)
    return counts


def take_in(
    campaign: Campaign, shards: Sequence[ShardPlan], *, policy: records.Policy, iteration: int, purpose: Purpose
) -> dict[str, int]:
    """Do as `ingest_shards`, whoever acted in them."""
    paths = [shard.path(campaign.settings.paths.shards) for shard in shards]
    with campaign.database() as database:
        policies.save(database, policy)
        report = ingest(database, paths, campaign=campaign.name, iteration=iteration, purpose=purpose)
        if report.damaged:
            raise ShardError(f"{report.damaged[0]}: damaged, set aside; run the same command again to collect it anew")
        with model_judge.kept_in(campaign.settings.paths.judgements):
            scores = scoring.score(database, environments.get, campaign=campaign.name)
    told = {"trajectories": report.trajectories, "failed": report.failed, "shards": report.shards}
    return scores | told | ({"not_sampled": report.unsampled} if report.unsampled else {})
