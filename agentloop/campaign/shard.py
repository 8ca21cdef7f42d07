"""A shard brought to its end: what was finished before is taken from its journal, the rest is played, and it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from agentloop.campaign.campaign import Campaign
from agentloop.records import Trajectory
from agentloop.rollout.collection import ShardPlan
from agentloop.store import journal
from agentloop.store.shards import Footer, Purpose, is_whole, write_shard

OnEpisode = Callable[[Trajectory], None]
Rest = Callable[[Mapping[str, Trajectory], OnEpisode], Awaitable[list[Trajectory]]]
"""Plays the episodes of a shard that are not among those given, by id, and tells of each as it ends. Returns all of
them, in the plan's order."""


async def complete(
    campaign: Campaign, shard: ShardPlan, play: Rest, *, iteration: int, purpose: Purpose, on_episode: OnEpisode
) -> None:
    """Play what is missing and write the shard. Killed at any moment, the next call repeats no episode that was finished.

    Episodes that failed for good are not finished: the next call tries them again. Where another process plays the same shard,
    both do, and the first to write it has done it. Raises as `play` does, and NoSpaceError, DiskError, ShardError.
    """
    path = shard.path(campaign.settings.paths.shards)
    about = Footer(shard.id, len(shard.episodes), campaign.name, iteration, purpose)
    with journal.opened(path, about, shard.trajectories) as kept:
        played = kept.played if kept is not None else {}

        def ended(trajectory: Trajectory) -> None:
            if kept is not None and trajectory.status not in ("failed", "not_sampled"):
                kept.append(trajectory)
            on_episode(trajectory)

        if not is_whole(path):  # else whoever had the journal has written it this moment
            for trajectory in played.values():
                on_episode(trajectory)
            if len(played) == len(shard.episodes):
                episodes = [played[name] for name in shard.trajectories]
            else:
                episodes = await play(played, ended)
            write = partial(write_shard, purpose=purpose, campaign=campaign.name, iteration=iteration)
            write = partial(write, given_up_after=shard.give_up_after)
            await asyncio.to_thread(write, path, episodes)  # other shards play on meanwhile
        if kept is not None:
            kept.remove()
