"""The training step: from a dataset in the store to a registered adapter."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from agentloop.campaign import needs, training_rows
from agentloop.campaign.campaign import Campaign
from agentloop.store import adapters, training_runs
from agentloop.store.adapters import Role
from agentloop.training.launch import ProcessTimes, launch, read_metrics
from agentloop.training.run import TrainingRun


def plan(campaign: Campaign, dataset: str, *, parent: str | None = None, control: bool = False) -> TrainingRun:
    """The run that trains on a dataset; its adapter's id is known before it starts.

    A matched control learns from all of its rows alike, whatever the campaign's objective makes of failures.
    """
    settings = campaign.settings
    return TrainingRun.plan(
        base=campaign.base,
        dataset=dataset,
        rows=settings.paths.data / "datasets" / f"{dataset}.safetensors",
        model=campaign.model,
        training=settings.training.on_successes() if control else settings.training,
        quantization=campaign.quantization,
        seed=settings.seed,
        paths=settings.paths,
        parent=parent if settings.training.continue_adapter else None,
    )


def train(
    campaign: Campaign,
    run: TrainingRun,
    *,
    iteration: int,
    role: Role = "challenger",
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train the adapter, or continue a killed run: `{adapter, steps, loss, seconds}`."""

    def work() -> dict[str, Any]:
        _write_rows(campaign, run, iteration)
        resumed = run.checkpoint.exists()
        seconds = _train(campaign, run, iteration, on_step)
        return _register(campaign, run, iteration, role=role, seconds=seconds, resumed=resumed)

    return campaign.step("train", iteration, [run.adapter.id, role], work)


def _write_rows(campaign: Campaign, run: TrainingRun, iteration: int) -> None:
    """Note that the run begins, and write what it trains on as a file: the trainer opens no database."""
    adapter = run.adapter
    with campaign.database() as database:
        stored = training_rows.gather(database, adapter.dataset)
    if not run.output.exists():
        needs.training(campaign, run, tokens=sum(len(row.token_ids) for row in stored.tokens))
    stored.write(run.rows)
    with campaign.database() as database:
        training_runs.begin(
            database,
            adapter.id,
            campaign=campaign.name,
            iteration=iteration,
            dataset=adapter.dataset,
            parent=adapter.parent,
        )


def _train(campaign: Campaign, run: TrainingRun, iteration: int, on_step: Callable[[dict[str, Any]], None]) -> float:
    """The seconds that the trainer's process took."""
    started = time.perf_counter()
    with campaign.phase("train", iteration) as phase:

        def watched(metrics: dict[str, Any]) -> None:
            if metrics["memory_gib"] is not None:
                phase.peak_bytes = max(phase.peak_bytes or 0, round(metrics["memory_gib"] * 2**30))
            on_step(metrics)

        launch(run, campaign.settings, on_step=watched, on_end=partial(_note, campaign))
    return time.perf_counter() - started


def _note(campaign: Campaign, took: ProcessTimes) -> None:
    """Write down what a process of the trainer took. What it was lost by is the reason of its successor."""
    campaign.note("trainer", "start", took.start, ago=took.steps + took.save, reason=took.fault)
    campaign.note("trainer", "steps", took.steps, ago=took.save)
    campaign.note("trainer", "save", took.save)


def _register(
    campaign: Campaign, run: TrainingRun, iteration: int, *, role: Role, seconds: float, resumed: bool
) -> dict[str, Any]:
    """Make the adapter and its curves known to the store."""
    adapter = run.adapter
    with campaign.database() as database:
        # of an adapter that another campaign made, the trainer's own journal may be gone
        metrics = read_metrics(run) or training_runs.metrics(database, adapter.id)
        adapters.save(database, adapter, path=run.output, campaign=campaign.name, iteration=iteration, role=role)
        training_runs.log(database, adapter.id, metrics)
        training_runs.finish(
            database,
            adapter.id,
            seconds=seconds,
            tokens=int(sum(step["tokens"] for step in metrics)),
            resumed=int(resumed),
        )
    return {
        "adapter": adapter.id,
        "steps": len(metrics),
        "loss": metrics[-1]["loss"] if metrics else None,
        "seconds": round(seconds, 1),
    }
