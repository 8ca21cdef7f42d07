"""Rollouts: a policy on many tasks, through vLLM, into shards, into the database, scored."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentloop import environments, records
from agentloop.at_hand import AtHand
from agentloop.campaign import suites
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import Suite
from agentloop.curation import scoring
from agentloop.errors import ShardError
from agentloop.records import Trajectory
from agentloop.rollout.collection import ShardPlan, plan, run_shard
from agentloop.serving.policy_server import PolicyServer
from agentloop.serving.served_policy import ServedPolicy
from agentloop.store import policies
from agentloop.store.ingest import ingest
from agentloop.store.shards import Purpose, is_whole, write_shard


def plan_collection(campaign: Campaign, iteration: int, adapter: str | None) -> list[ShardPlan]:
    """The shards of training rollouts of an iteration, by the policy with this adapter.

    Raises SettingError where the environment has too few training tasks.
    """
    collect = campaign.settings.collect
    with suites.enough("collect.tasks"):
        tasks = campaign.training_tasks(iteration)
    return plan(
        tasks,
        collect.samples,
        policy=campaign.policy(adapter).id,
        sampling=campaign.sampling(collect.temperature),
        seed=campaign.settings.seed,
        shard_episodes=collect.shard_episodes,
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
            seed=campaign.settings.seed,
            shard_episodes=campaign.settings.collect.shard_episodes,
        )
    ]


@dataclass(frozen=True)
class Actor:
    """A policy at play: served, with the slots for its episodes in flight, which shards that are collected at once share."""

    policy: ServedPolicy
    slots: asyncio.Semaphore


_ACTORS: AtHand[Actor] = AtHand()


@asynccontextmanager
async def acting(
    campaign: Campaign, server: PolicyServer, shard: ShardPlan, *, adapter: str | None
) -> AsyncIterator[Actor]:
    """The actor for shards like this one: that of a block around this one, as long as it has not given up, else a new one.

    Raises as `PolicyServer.serve` does, WorldError and SettingError.
    """
    role = (shard.policy, shard.sampling)
    actor = _ACTORS.get(role)
    if actor is not None and not actor.policy.given_up:
        yield actor
        return
    campaign.worlds.start()
    slots = actor.slots if actor else asyncio.Semaphore(campaign.settings.collect.concurrency)
    async with ServedPolicy(
        server,
        adapter,
        temperature=shard.sampling.temperature,
        top_p=shard.sampling.top_p,
        stop_token_ids=campaign.prompt.stop_token_ids,
    ) as policy:
        with _ACTORS.holding(role, Actor(policy, slots)) as actor:
            yield actor


def shards_at_once(campaign: Campaign) -> int:
    """Return how many shards to play at once, so that the next one has episodes for every slot that the slowest episodes of the
    others leave.
    """
    collect = campaign.settings.collect
    return 1 + math.ceil(collect.concurrency / collect.shard_episodes)


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
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
) -> str:
    """Run the shard's episodes and write it, unless it is there. Returns its id."""
    path = shard.path(campaign.settings.paths.shards)
    if is_whole(path):
        return shard.id
    async with acting(campaign, server, shard, adapter=adapter) as actor:
        episodes = await run_shard(
            shard,
            policy=actor.policy,
            prompt=campaign.prompt,
            open_world=campaign.worlds.open,
            limits=campaign.settings.collect,
            slots=actor.slots,
            on_episode=on_episode,
        )
        write_shard(path, episodes, purpose=purpose, campaign=campaign.name, iteration=iteration)
        actor.policy.shard_done()
    return shard.id


def ingest_shards(
    campaign: Campaign, shards: Sequence[ShardPlan], *, adapter: str | None, iteration: int, purpose: Purpose
) -> dict[str, int]:
    """Take the shards into the database and score what is new. Returns counts."""
    return take_in(campaign, shards, policy=campaign.policy(adapter), iteration=iteration, purpose=purpose)


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
        scores = scoring.score(database, lambda name: environments.get(name).verify, campaign=campaign.name)
    return {"trajectories": report.trajectories, "failed": report.failed, "shards": report.shards, **scores}
