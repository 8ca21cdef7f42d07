"""The steps as Prefect tasks, named for people. Prefect remembers no result: the ledger alone says what is done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from agentloop.campaign import canary as canaries
from agentloop.campaign import collect as rollouts
from agentloop.campaign import gate, judge
from agentloop.campaign import prepare as preparing
from agentloop.campaign import quantize as quantizing
from agentloop.campaign import report as reporting
from agentloop.campaign import select as selecting
from agentloop.campaign import train as training
from agentloop.campaign.campaign import Campaign
from agentloop.campaign.suites import Suite
from agentloop.errors import ServerError, TrainerError, told
from agentloop.evaluation.looks import Look
from agentloop.rollout.collection import ShardPlan
from agentloop.serving.policy_server import PolicyServer
from agentloop.training.run import TrainingRun
from agentloop_flows import artifacts
from agentloop_flows.progress import Progress, progress

step = partial(task, persist_result=False, cache_policy=NO_CACHE)


class _OneLine(logging.Filter):
    """Faults that the user can act on are told in one line; only bugs keep their traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and told(record.exc_info[1]) is not None:
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneLine())


def _infrastructure_failed(_: Any, __: Any, state: Any) -> bool:
    """Another attempt may succeed where a process died or hung. Prefect logs every attempt."""
    return isinstance(state.result(raise_on_failure=False), (ServerError, TrainerError))


attempts = {"retries": 2, "retry_delay_seconds": 2, "retry_condition_fn": _infrastructure_failed}


@step(name="episodes", task_run_name="{label}", **attempts)
def run_episodes(
    label: str,
    campaign: Campaign,
    server: PolicyServer,
    shard: ShardPlan,
    bar: Progress,
    *,
    adapter: str | None,
    iteration: int,
    purpose: str,
) -> str:
    return rollouts.collect_shard(
        campaign,
        server,
        shard,
        adapter=adapter,
        iteration=iteration,
        purpose=purpose,
        on_episode=lambda trajectory: bar.advance(),
    )


def collect(
    campaign: Campaign,
    iteration: int,
    server: PolicyServer,
    shards: Sequence[ShardPlan],
    *,
    adapter: str | None,
    purpose: str,
) -> None:
    """One task for each shard that is not on disk."""
    missing = [shard for shard in shards if not rollouts.is_collected(campaign, shard)]
    if not missing:
        return
    title = f"iteration {iteration}: {purpose} with {adapter or 'base'}"
    episodes = sum(len(shard.episodes) for shard in missing)
    with campaign.phase(purpose, iteration), progress(title, episodes) as bar:
        for shard in missing:
            label = f"{title}, shard {shards.index(shard) + 1} of {len(shards)}"
            run_episodes(label, campaign, server, shard, bar, adapter=adapter, iteration=iteration, purpose=purpose)


@step(name="ingest", task_run_name="iteration {iteration}: ingest {purpose}")
def ingest(
    campaign: Campaign, iteration: int, shards: Sequence[ShardPlan], *, adapter: str | None, purpose: str
) -> dict[str, int]:
    return rollouts.ingest_shards(campaign, shards, adapter=adapter, iteration=iteration, purpose=purpose)


@step(name="select", task_run_name="iteration {iteration}: select")
def select(campaign: Campaign, iteration: int, recipe: str | None = None, size: int | None = None) -> dict[str, Any]:
    return selecting.select(campaign, iteration, recipe=recipe, size=size)


@step(name="quantize", task_run_name="how the base is held", **attempts)
def quantize(campaign: Campaign) -> dict[str, Any]:
    held = quantizing.settle(campaign)
    return {"kind": held.kind, "in_16bit": list(held.in_16bit)}


@step(name="prepare", task_run_name="the base as it is served", **attempts)
def prepare(campaign: Campaign) -> str:
    return str(preparing.prepare(campaign))


def policies(campaign: Campaign) -> PolicyServer:
    """The campaign's policies; vLLM starts when the first of them is asked for."""
    return PolicyServer(campaign.settings, Path(prepare(campaign)), base=campaign.base)


@step(name="judge", task_run_name="the base: 16 bit against what is trained on", **attempts)
def judge_base(campaign: Campaign, server: PolicyServer) -> dict[str, Any] | None:
    return judge.judge(campaign, server)


@step(name="train", task_run_name="iteration {iteration}: train {role}", **attempts)
def train(campaign: Campaign, iteration: int, run: TrainingRun, role: str = "challenger") -> dict[str, Any]:
    if run.output.exists():
        return training.train(campaign, run, iteration=iteration, role=role)
    with progress(f"iteration {iteration}: train {role} {run.adapter.id}", 1) as bar:

        def on_step(metrics: dict[str, Any]) -> None:
            bar.total = metrics["steps"]
            bar.advance_to(metrics["step"])

        return training.train(campaign, run, iteration=iteration, role=role, on_step=on_step)


@step(name="canary", task_run_name="iteration {iteration}: canary", **attempts)
def canary(campaign: Campaign, iteration: int, server: PolicyServer, run: TrainingRun) -> dict[str, Any]:
    return canaries.check(campaign, iteration, server, run)


@step(name="measure", task_run_name="iteration {iteration}: success of the {role}")
def measure(campaign: Campaign, iteration: int, adapter: str | None, suite: Suite, role: str) -> dict[str, Any]:
    return gate.measure(campaign, adapter, suite, iteration=iteration, role=role)


@step(name="decide", task_run_name="iteration {iteration}: verdict")
def decide(
    campaign: Campaign, iteration: int, measured: dict[str, tuple[str, str]], look: Look, *, adapter: str
) -> dict[str, Any]:
    return gate.decide(campaign, measured, look, adapter=adapter, iteration=iteration)


@step(name="report", task_run_name="report")
def report(campaign: Campaign) -> str:
    artifacts.publish_plots(campaign.name, reporting.plots(campaign))
    return str(reporting.write(campaign.settings))
