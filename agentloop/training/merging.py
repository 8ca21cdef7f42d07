"""A trained adapter merged onto its base, by a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from agentloop import job, space
from agentloop.settings import Settings
from agentloop.training.run import TrainingRun

_SPARE_BYTES = 100 << 20
"""So that the disk is not full to the last byte."""


def merge(
    run: TrainingRun,
    directory: Path,
    settings: Settings,
    *,
    beside: Mapping[str, str],
    onto: Literal["bf16", "dequantised"] = "bf16",
) -> None:
    """Write `directory`, whole or not at all: the run's base with its adapter, and further files by name in `beside`.

    `onto`: the base's original weights, or what NF4 made of them. Raises ModelError with the process's own line where it
    refused, RoomError where it ran out of memory, TrainerError where it died, DiskError.
    """
    space.require(directory.parent, sum(file.stat().st_size for file in run.model.iterdir()) + _SPARE_BYTES)
    request = {"run": run.to_json(), "directory": str(directory), "beside": dict(beside), "onto": onto}
    what = f"merging {run.adapter.id}"
    job.run("agentloop.training.merging_worker", request, settings, name="merge", what=what)
