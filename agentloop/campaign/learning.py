"""Learning: from stored trajectories to a dataset, from a dataset to an adapter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agentloop.campaign.campaign import Campaign
from agentloop.curation import recipes
from agentloop.curation.selection import select
from agentloop.settings import Selection
from agentloop.store import adapters, datasets, families, training_runs
from agentloop.training import rows
from agentloop.training.launch import launch, read_metrics
from agentloop.training.run import TrainingRun


def choose(campaign: Campaign, iteration: int, *, recipe: str | None = None, size: int | None = None) -> dict[str, Any]:
    """Select this iteration's dataset: `{dataset, rows, funnel}`. `recipe` and `size` are those of a matched control."""
    selection = campaign.settings.selection
    parameters: Selection = selection.model_copy(update={"recipe": recipe}) if recipe else selection

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            chosen = select(
                database,
                parameters.recipe,
                campaign.name,
                iteration,
                parameters,
                seed=campaign.settings.seed,
                size=size,
            )
        return {
            "dataset": chosen.dataset.id,
            "rows": len(chosen.dataset.trajectories),
            "funnel": [list(rule) for rule in chosen.funnel],
        }

    query = recipes.load(parameters.recipe).digest
    return campaign.step("select", iteration, [parameters, query, size], work)


def never_solved(campaign: Campaign) -> str:
    """One line about the families of tasks that were tried and never solved, with what to do; empty where there are none."""
    with campaign.database() as database:
        return families.offer(families.unsolved(database, campaign.name))


def plan_training(campaign: Campaign, dataset: str, *, parent: str | None = None) -> TrainingRun:
    """The run that trains on a dataset; its adapter's id is known before it starts."""
    settings = campaign.settings
    return TrainingRun.plan(
        base=campaign.base,
        dataset=dataset,
        rows=settings.paths.data / "datasets" / f"{dataset}.safetensors",
        model=campaign.model,
        training=settings.training,
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
    role: str = "challenger",
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
) -> dict[str, Any]:
    """Train the adapter, or continue a killed run: `{adapter, steps, loss, seconds}`."""
    adapter = run.adapter

    def work() -> dict[str, Any]:
        with campaign.database() as database:
            rows.write(run.rows, ((row.token_ids, row.mask) for row in datasets.rows(database, adapter.dataset)))
            training_runs.begin(
                database,
                adapter.id,
                campaign=campaign.name,
                iteration=iteration,
                dataset=adapter.dataset,
                parent=adapter.parent,
            )
        resumed = run.checkpoint.exists()
        started = time.perf_counter()
        with campaign.phase("train", iteration):
            launch(run, campaign.settings, on_step=on_step)
        seconds = time.perf_counter() - started
        metrics = read_metrics(run)
        with campaign.database() as database:
            adapters.save(database, adapter, path=run.output, campaign=campaign.name, iteration=iteration, role=role)
            training_runs.log(database, adapter.id, metrics)
            training_runs.finish(
                database,
                adapter.id,
                seconds=seconds,
                tokens=sum(step["tokens"] for step in metrics),
                resumed=int(resumed),
            )
        return {
            "adapter": adapter.id,
            "steps": len(metrics),
            "loss": metrics[-1]["loss"] if metrics else None,
            "seconds": round(seconds, 1),
        }

    return campaign.step("train", iteration, [adapter.id, role], work)
