"""A trained adapter written for others, by a process of its own which has torch and compares the result with the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentloop import job
from agentloop.exports.verification import Expected
from agentloop.records import ExportForm
from agentloop.settings import Settings
from agentloop.training.run import TrainingRun


@dataclass(frozen=True)
class Written:
    """An export that has passed."""

    checks: tuple[str, ...]
    """One line for each program that was asked, with its figures."""
    expected: Expected
    """What the trainer says, for a program that is asked later."""


def write(
    run: TrainingRun,
    directory: Path,
    settings: Settings,
    *,
    name: str,
    form: ExportForm,
    kinds: Sequence[str],
    onto: Literal["bf16", "dequantised"],
    beside: Mapping[str, str],
) -> Written:
    """Write `directory`, whole or not at all, with further files by name in `beside`.

    `name`: what the export is called in messages. `kinds`: types of GGUF. `onto`: the base's original weights, or what NF4
    made of them. The form "adapter" writes nothing: it checks the adapter for PEFT that is in `directory`.

    Raises ModelError with the process's own line where it refused or another program computes something else, RoomError where
    it ran out of memory, TrainerError where it died, DiskError.
    """
    request = {
        "run": run.to_json(),
        "directory": str(directory),
        "name": name,
        "form": form,
        "kinds": list(kinds),
        "onto": onto,
        "beside": dict(beside),
    }
    answer: dict[str, Any] = job.run(
        "agentloop.training.export_worker", request, settings, name="export", what=f"exporting {run.adapter.id}"
    )
    return Written(tuple(answer["checks"]), Expected.from_json(answer["expected"]))
