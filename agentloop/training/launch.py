"""Start the trainer's process, follow it, and end it whatever happens to the caller."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentloop.child import ChildProcess
from agentloop.errors import ModelError
from agentloop.settings import Settings
from agentloop.training.run import TrainingRun


def launch(
    run: TrainingRun, settings: Settings, *, on_step: Callable[[dict[str, Any]], None] = lambda metrics: None
) -> None:
    """Train in a child process; `on_step` is given the metrics of every optimizer step.

    Raises ModelError with the trainer's own line where it refused its input or died. A second call continues from the
    newest checkpoint.
    """
    file = run.checkpoints / f"{run.adapter.id}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(run.to_json(), indent=2))
    log = settings.paths.logs / f"train-{run.adapter.id}.log"
    training = settings.training
    arguments = [str(file), str(training.checkpoint_steps), str(training.memory_budget)]
    worker = ["-m", "agentloop.training.worker", *arguments]
    if training.devices > 1:
        processes = f"--nproc-per-node={training.devices}"
        worker = ["-m", "torch.distributed.run", "--standalone", processes, *worker]
    command = [sys.executable, *worker]
    told = log.stat().st_size if log.exists() else 0
    with ChildProcess(command, environment=settings.child_environment(), log=log, read_stdout=True) as child:
        for line in child.stdout:
            on_step(json.loads(line))
        code = child.wait()
    if code != 0:
        raise ModelError(f"{refusal(log, told) or f'the trainer ended with exit code {code}'} (log: {log})")


def refusal(log: Path, start: int) -> str | None:
    """The trainer's own line, if what follows byte `start` has one; torchrun writes more lines behind it."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)


def read_metrics(run: TrainingRun) -> list[dict[str, Any]]:
    """The metrics of every optimizer step of a finished run, in order."""
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]
