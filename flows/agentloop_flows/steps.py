"""The steps as Prefect tasks, named for people. Prefect remembers no result: the ledger alone says what is done.

Tasks take settings, plans and names, nothing that lives in this process alone: they work with what it has open, and open
what is missing, so that any process with the project and the store can run one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from agentloop.campaign import canary as canaries
from agentloop.campaign import collect as rollouts
from agentloop.campaign import gate, judge, needs
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
from agentloop.settings import Settings
from agentloop.store import adapters, evaluations
from agentloop.store.shards import Purpose
from agentloop.training.run import TrainingRun
from agentloop_flows import artifacts, interruptible
from agentloop_flows.progress import advance, progress

_WARM, _LOOK_SECONDS = 0.5, 0.5
"""Share of a phase's episodes after which vLLM has taken what it takes of the card, and how often that is looked for."""

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
    return isinstance(state.data, (ServerError, TrainerError))  # state.result() is a coroutine where the task is one


attempts = {"retries": 2, "retry_delay_seconds": 2, "retry_condition_fn": _infrastructure_failed}


@step(name="episodes", task_run_name="{what}", **attempts)
async def run_episodes(
    title: str,
    what: str,
    settings: Settings,
    shard: ShardPlan,
    *,
    adapter: str | None,
    iteration: int,
    purpose: Purpose,
) -> str:
    campaign = Campaign.of(settings)
    with preparing.policies(campaign) as server:
        return await rollouts.collect_shard(
            campaign,
            server,
            shard,
            adapter=adapter,
            iteration=iteration,
            purpose=purpose,
            on_episode=lambda trajectory: advance(title),
        )


def collect(
    settings: Settings, iteration: int, shards: Sequence[ShardPlan], *, adapter: str | None, purpose: Purpose, what: str
) -> None:
    """One task for each shard that is still to be played; several at once, so that none waits for another's slowest episode.

    `what` names them for people.
    """
    campaign = Campaign.of(settings)
    missing = rollouts.missing(campaign, shards, iteration=iteration, purpose=purpose)
    if there := len(shards) - len(missing):
        get_run_logger().info("%s: %d of %d shards are there already and are reused", what, there, len(shards))
    if not missing:
        return
    needs.episodes(campaign, missing)
    title = f"iteration {iteration}: {purpose} with {adapter or 'base'}"
    waiting, failures = list(missing), list[Exception]()

    async def take_turns() -> None:
        while waiting:
            shard = waiting.pop(0)
            number = f"{what} {shards.index(shard) + 1}/{len(shards)}"
            try:
                await run_episodes(
                    title, number, settings, shard, adapter=adapter, iteration=iteration, purpose=purpose
                )
            except Exception as error:
                failures.append(error)
                waiting.clear()  # what has begun is brought to its end, and nothing else is begun

    async def look_at_card(server: PolicyServer) -> None:
        while bar.done < bar.total * _WARM:
            await asyncio.sleep(_LOOK_SECONDS)
        with suppress(ServerError):  # it is for the report
            await asyncio.to_thread(server.look_at_card)

    async def side_by_side() -> None:
        with preparing.policies(campaign) as server:
            async with rollouts.acting(campaign, server, missing[0], adapter=adapter):
                looking = asyncio.create_task(look_at_card(server))
                await asyncio.gather(*(take_turns() for _ in range(rollouts.shards_at_once(campaign, missing))))
                looking.cancel()
            phase.peak_bytes = server.card_bytes
        if failures:
            raise failures[0]

    episodes = sum(len(shard.episodes) for shard in missing)
    with campaign.phase(purpose, iteration) as phase, progress(title, episodes) as bar:
        interruptible.run(side_by_side())


@step(name="ingest", task_run_name="ingest {purpose}")
def ingest(
    settings: Settings, iteration: int, shards: Sequence[ShardPlan], *, adapter: str | None, purpose: Purpose
) -> dict[str, int]:
    return rollouts.ingest_shards(Campaign.of(settings), shards, adapter=adapter, iteration=iteration, purpose=purpose)


@step(name="select", task_run_name="select")
def select(
    settings: Settings, iteration: int, recipe: str | None = None, size: int | None = None, rows: int | None = None
) -> dict[str, Any]:
    return selecting.select(Campaign.of(settings), iteration, recipe=recipe, size=size, rows=rows)


@step(name="quantize", task_run_name="quantize", **attempts)
def quantize(settings: Settings) -> dict[str, Any]:
    held = quantizing.settle(Campaign.of(settings))
    return {"kind": held.kind, "in_16bit": list(held.in_16bit)}


@step(name="prepare", task_run_name="prepare", **attempts)
def prepare(settings: Settings) -> str:
    return str(preparing.prepare(Campaign.of(settings)))


@contextmanager
def policies(settings: Settings) -> Iterator[PolicyServer]:
    """The campaign's policies for the tasks of this block; vLLM starts when the first of them is asked for."""
    prepare(settings)
    with preparing.policies(Campaign.of(settings)) as server:
        yield server


@step(name="judge", task_run_name="judge", **attempts)
def judge_base(settings: Settings) -> dict[str, Any] | None:
    campaign = Campaign.of(settings)
    with preparing.policies(campaign) as server:
        return judge.judge(campaign, server)


@step(name="train", task_run_name="train {role}", **attempts)
def train(settings: Settings, iteration: int, run: TrainingRun, role: adapters.Role = "challenger") -> dict[str, Any]:
    campaign = Campaign.of(settings)
    if run.output.exists():
        return training.train(campaign, run, iteration=iteration, role=role)
    with progress(f"iteration {iteration}: train {role} {run.adapter.id}", 1) as bar:

        def on_step(metrics: dict[str, Any]) -> None:
            bar.total = metrics["steps"]
            bar.advance_to(metrics["step"])

        return training.train(campaign, run, iteration=iteration, role=role, on_step=on_step)


@step(name="canary", task_run_name="canary", **attempts)
def canary(settings: Settings, iteration: int, run: TrainingRun) -> dict[str, Any]:
    campaign = Campaign.of(settings)
    with preparing.policies(campaign) as server:
        return canaries.check(campaign, iteration, server, run)


@step(name="measure", task_run_name="measure {role}")
def measure(
    settings: Settings, iteration: int, adapter: str | None, suite: Suite, role: evaluations.Role
) -> dict[str, Any]:
    return gate.measure(Campaign.of(settings), adapter, suite, iteration=iteration, role=role)


@step(name="decide", task_run_name="gate")
def decide(
    settings: Settings, iteration: int, measured: dict[str, tuple[str, str]], look: Look, *, adapter: str
) -> dict[str, Any]:
    return gate.decide(Campaign.of(settings), measured, look, adapter=adapter, iteration=iteration)


@step(name="report", task_run_name="report")
def report(settings: Settings) -> str:
    campaign = Campaign.of(settings)
    artifacts.publish_plots(campaign.name, reporting.plots(campaign))
    return str(reporting.write(settings))
