"""Training as a user's run gets it: one whole epoch by the trainer's process, from its start to the saved adapter."""

from __future__ import annotations

import shutil
import statistics
import time
from typing import Any

from agentloop import canary_reference
from agentloop.campaign.campaign import Campaign
from agentloop.proof import compiled
from agentloop.proof.workload import Workload
from agentloop.training.launch import launch, read_metrics
from agentloop.training.run import TrainingRun


def measure(campaign: Campaign, workload: Workload) -> dict[str, Any]:
    """Train the epoch, from empty caches, and return its figures. Raises ModelError, TrainerError."""
    settings = campaign.settings
    run = workload.planned(campaign)
    forget(run)
    compiled.clear_packed(settings)
    cold = compiled.clear(settings, compiled.TRAINERS)
    seen: list[float] = []
    started = time.perf_counter()
    launch(run, settings, on_step=lambda metrics: seen.append(time.perf_counter() - started))
    seconds = time.perf_counter() - started
    stored = canary_reference.read(run.output)
    return {
        "adapter": run.adapter.id,
        "base_held_in": "4 bit" if stored.in_4bit else stored.dtype,
        "rows": workload.about(campaign),
        "from_empty_caches": cold,
        "seconds": seconds,
        "seconds_to_first_step": seen[0],
        "seconds_of_saving": seconds - seen[-1],
        **summary(read_metrics(run), seconds),
    }


def summary(steps: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Figures of the optimizer steps of a run that took so many seconds as a whole."""
    tokens = sum(step["tokens"] for step in steps)
    times = [step["seconds"] for step in steps]
    held = [step["memory_gib"] for step in steps if step["memory_gib"] is not None]
    return {
        "steps": len(steps),
        "tokens_per_second": tokens / seconds,
        "step_seconds": {"first": times[0], "mean": statistics.mean(times), "median": statistics.median(times)},
        "steady_tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in steps),
        "process_memory_gib": max(held, default=None),
    }


def forget(run: TrainingRun) -> None:
    """Remove what an earlier attempt at this run has left: half a run measured is none."""
    shutil.rmtree(run.output, ignore_errors=True)
    for file in (run.checkpoint, run.metrics):
        file.unlink(missing_ok=True)
