"""The demo's recipe: one collection, an adapter for each learning rate and number of epochs, measured on training tasks.

    python benchmarks/demo_recipe.py OUT [--rates 5e-4 1e-3 2e-3] [--epochs 3 8] [--profile demo] [SECTION.NAME=VALUE …]

Nothing is chosen by held-out tasks: each adapter plays tasks of the training split that a campaign meets in its twentieth
iteration, so none of them was collected or trained on. Writes OUT/recipe.json; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agentloop.campaign import collect, prepare, select, train
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import Suite
from agentloop.evaluation.statistics import clustered_interval
from agentloop.records import SOLVED
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.policy_server import PolicyServer
from agentloop.settings import load, parse_overrides
from agentloop.store.shards import Purpose, read_shard
from agentloop.verification import SUCCESS, scored

UNMET = 20
"""Iteration whose training tasks are played."""
SAMPLES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    output = options.output.resolve()
    words = [f"paths.data={output / 'data'}", f"paths.cache={output / 'cache'}", "iterations=1", *options.overrides]
    settings = load(parse_overrides(words), profile=options.profile)
    settings.export()
    campaign = Campaign.open(settings)
    with campaign.at_work(), prepare.policies(campaign) as server:
        campaign.begin(1)
        roll_out(campaign, server, collect.plan_collection(campaign, 1, None), None, "collect")
        dataset = select.select(campaign, 1)["dataset"]
        found = {"base": {"success": measured(campaign, server, None)}}
        for rate in options.rates:
            for epochs in options.epochs:
                training = settings.training.model_copy(update={"learning_rate": rate, "epochs": epochs})
                own = replace(campaign, settings=settings.model_copy(update={"training": training}))
                run = train.plan(own, dataset)
                began = time.monotonic()
                trained = train.train(own, run, iteration=1)
                found[f"{rate:g} x {epochs}"] = {
                    "seconds": round(time.monotonic() - began, 1),
                    "steps": trained["steps"],
                    "success": measured(own, server, run.adapter.id),
                }
                print(found)
                (output / "recipe.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def measured(campaign: Campaign, server: PolicyServer, adapter: str | None) -> dict[str, Any]:
    """Success of a policy on the unmet tasks, with its 95 % interval."""
    tasks = tuple(campaign.training_tasks(UNMET))
    planned = collect.plan_evaluation(campaign, adapter, Suite("unmet", (tasks,), SAMPLES))
    roll_out(campaign, server, planned, adapter, None)
    solved: dict[str, list[bool]] = {}
    for shard in planned:
        for episode in read_shard(shard.path(campaign.settings.paths.shards)):
            value = scored(campaign.environment, episode.task, episode.answer, episode.outcome, who="verifier")[SUCCESS]
            solved.setdefault(episode.task.id, []).append(value >= SOLVED)
    return asdict(clustered_interval(list(solved.values())))


def roll_out(
    campaign: Campaign, server: PolicyServer, planned: list[ShardPlan], adapter: str | None, purpose: Purpose | None
) -> None:
    """Play what is not there. Without a purpose nothing of it goes into the database."""

    async def play() -> None:
        played = (
            collect.collect_shard(campaign, server, each, adapter=adapter, iteration=1, purpose=purpose or "evaluate")
            for each in planned
        )
        async with collect.acting(campaign, server, planned[0], adapter=adapter):
            await asyncio.gather(*played)

    asyncio.run(play())
    if purpose is not None:
        collect.ingest_shards(campaign, planned, adapter=adapter, iteration=1, purpose=purpose)


if __name__ == "__main__":
    main()
