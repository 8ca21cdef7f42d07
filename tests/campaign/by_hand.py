"""A campaign whose held-out rollouts are written by hand, measured and judged by its own steps. No model takes part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agentloop import environments
from agentloop import settings as configuration
from agentloop.campaign import collect, gate
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import Suite
from agentloop.records import Attempt, Trajectory, Turn
from agentloop.rollout.collection import unfinished
from agentloop.store import tasks
from agentloop.store.shards import write_shard

CHALLENGER = "adapter_challenger"
SETTINGS = (
    "evaluate.tasks=16",
    "evaluate.samples=1",
    "gate.alpha=0.05",
    "gate.max_tasks=32",
    "gate.resamples=500",
    "collect.shard_episodes=10",
)
GUARD = (
    "gate.guards.database.tasks=8",
    "gate.guards.database.samples=1",
    "gate.guards.database.margin=0.4",
)


def opened(root: Path, *settings: str, environment: str = "arithmetic", guard: bool = True) -> Campaign:
    words = [
        *SETTINGS,
        *GUARD * guard,
        f"environment={environment}",
        f"paths.data={root}",
        f"paths.cache={root / 'cache'}",
        *settings,
    ]
    loaded = configuration.load(words, profile="demo")
    return Campaign(loaded, environments.get(environment), loaded.model_directory(), "base_1")


def roll_out(campaign: Campaign, adapter: str | None, suite: Suite, solved) -> None:
    """Write the planned shards as if a policy had solved those tasks of the suite, by place, for which `solved` says so.

    None: infrastructure kept the episode from finishing.
    """
    place = {task.id: number for number, task in enumerate(suite.tasks)}
    planned = collect.plan_evaluation(campaign, adapter, suite)
    for shard in planned:
        episodes = []
        for task, sample in shard.episodes:
            if solved(place[task.id]) is None:
                about = {"policy": shard.policy, "sampling": shard.sampling, "seed": shard.seed}
                lost = unfinished(task, sample, **about)
                episodes.append(replace(lost, attempts=(Attempt("tool x: KeyError: 'y'", 0.5),) * 3))
                continue
            answer = task.answer if solved(place[task.id]) else "no idea"
            turns = Turn("user", task.question, 0, 1), Turn("model", answer, 1, 2)
            episodes.append(
                Trajectory(
                    shard.policy,
                    task,
                    sample,
                    shard.sampling,
                    shard.seed,
                    "answered",
                    answer,
                    (1, 2),
                    (False, True),
                    (0.0, -1.0),
                    turns,
                    1.0,
                )
            )
        path = shard.path(campaign.settings.paths.shards)
        write_shard(path, episodes, purpose="evaluate", campaign=campaign.name, iteration=1)
    with campaign.database() as database:
        tasks.save(database, suite.tasks)
    collect.ingest_shards(campaign, planned, adapter=adapter, iteration=1, purpose="evaluate")


def measured(campaign: Campaign, suite: Suite, before, after, *, adapter: str = CHALLENGER) -> tuple[str, str]:
    """Evaluation ids of the champion, which is the base, and the challenger."""
    names = []
    for each, role, solved in ((None, "champion", before), (adapter, "challenger", after)):
        roll_out(campaign, each, suite, solved)
        names.append(gate.measure(campaign, each, suite, iteration=1, role=role)["evaluation"])
    return tuple(names)


def never(place: int) -> bool:
    return False


def always(place: int) -> bool:
    return True


def sometimes(place: int) -> bool:
    """6 of the first 16 tasks, 12 of 32."""
    return place % 8 < 3
