"""Start the trainer's process, follow it, and end it whatever happens to the caller."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agentloop import child_log
from agentloop.child import ERROR, NO_SPACE, ChildProcess
from agentloop.errors import AgentloopError, ModelError, NoSpaceError, TrainerError
from agentloop.files import atomic
from agentloop.settings import Settings
from agentloop.training.run import TrainingRun
from agentloop.training.shortage import PREFIX, Shortage

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class ProcessTimes:
    """Seconds that one process of the trainer took."""

    start: float
    """Until its first step began; of a process without steps, all of its life."""
    steps: float
    save: float
    """From its last step to its end."""
    fault: str | None
    """Why the run was not done when it ended."""


def launch(
    run: TrainingRun,
    settings: Settings,
    *,
    on_step: Callable[[dict[str, Any]], None] = lambda metrics: None,
    on_end: Callable[[ProcessTimes], None] = lambda times: None,
) -> None:
    """Train in a child process; `on_step` is given the metrics of every optimizer step, `on_end` what each process took.

    Where a step finds less memory on the card than was planned for it, the next process goes on from the newest checkpoint
    with a leaner plan, and a line says so.

    Raises ModelError with the trainer's own line where it refused its input, NoSpaceError where the disk was full, and
    TrainerError where it died, or gave no sign of life for training.stall_seconds; nothing of it is left running. A second
    call continues from the newest checkpoint.
    """
    file = run.checkpoints / f"{run.adapter.id}.json"
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(run.to_json(), indent=2), encoding="utf-8")
    budget = settings.training.memory_budget
    while shortage := _timed(file, run, settings, budget, on_step, on_end):
        budget = shortage.next_budget
        print(
            f"training.memory_budget: out of memory where {shortage.planned:.2f} GiB were planned and {shortage.available:.2f} "
            f"were to be had; training goes on from the newest checkpoint within {budget:.2f} GiB"
        )


def _timed(
    file: Path,
    run: TrainingRun,
    settings: Settings,
    budget: float | Literal["auto"],
    on_step: Callable[[dict[str, Any]], None],
    on_end: Callable[[ProcessTimes], None],
) -> Shortage | None:
    """One process of the trainer, as `_attempt`, with what it took."""
    began = time.monotonic()
    first = last = None
    fault: str | None = "interrupted"

    def watched(metrics: dict[str, Any]) -> None:
        nonlocal first, last
        last = time.monotonic()
        first = last - metrics["seconds"] if first is None else first
        on_step(metrics)

    try:
        shortage = _attempt(file, run, settings, budget, watched)
        fault = "out of memory" if shortage else None
        return shortage
    except AgentloopError as error:
        fault = str(error)
        raise
    finally:
        ended = time.monotonic()
        first, last = ended if first is None else max(first, began), ended if last is None else last
        on_end(ProcessTimes(first - began, last - first, ended - last, fault))


def _attempt(
    file: Path,
    run: TrainingRun,
    settings: Settings,
    budget: float | Literal["auto"],
    on_step: Callable[[dict[str, Any]], None],
) -> Shortage | None:
    """One process of the trainer. Returns what it lacked where it ran out of memory. Raises as `launch` does."""
    training = settings.training
    log = settings.paths.logs / f"train-{run.adapter.id}.log"
    worker = ["-m", "agentloop.training.worker", str(file), str(training.checkpoint_steps), str(budget)]
    if training.devices > 1:
        processes = f"--nproc-per-node={training.devices}"
        worker = ["-m", "torch.distributed.run", "--standalone", processes, *worker]
    command = [sys.executable, *worker]
    with ChildProcess(command, environment=settings.trainer_environment(), log=log, read_stdout=True) as child:
        for line in _lines(child, training.stall_seconds):
            on_step(json.loads(line))
        try:
            code = child.wait(training.stall_seconds)
        except subprocess.TimeoutExpired:
            raise _stalled(child, training.stall_seconds) from None
    if code == 0:
        return None
    if short := child.told(PREFIX):
        return Shortage.parse(short)
    if full := child.told(NO_SPACE):
        raise NoSpaceError(full)
    if refusal := child.told(ERROR):
        raise ModelError(f"{refusal} (log: {log})")
    raise TrainerError(f"the trainer {child_log.failure(code, child.said())} (log: {log})")


def _lines(child: ChildProcess, stall_seconds: float) -> Iterator[bytes]:
    """Whole lines of the child's standard output, until it is closed. Raises TrainerError where nothing happens for so long."""
    output = child.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    begun, logged, deadline = b"", -1, time.monotonic() + stall_seconds
    while True:
        if poll.poll(1000 * _POLL_SECONDS):
            read = os.read(output, 1 << 16)
            if not read:
                return  # a line that was cut off belongs to a trainer that was killed
            *lines, begun = (begun + read).split(b"\n")
            yield from lines
        elif (size := child.log.stat().st_size) != logged:
            logged = size
        elif time.monotonic() > deadline:
            raise _stalled(child, stall_seconds)
        else:
            continue
        deadline = time.monotonic() + stall_seconds


def _stalled(child: ChildProcess, seconds: float) -> TrainerError:
    return TrainerError(
        f"training.stall_seconds: the trainer gave no sign of life for {seconds:g} s and was ended (log: {child.log})"
    )


def read_metrics(run: TrainingRun) -> list[dict[str, Any]]:
    """The metrics of the optimizer steps of a finished run, in order; without those that a power cut has spoilt."""
    lines = run.metrics.read_bytes().splitlines() if run.metrics.exists() else []
    return [metrics for metrics in map(_metrics, lines) if metrics]


def _metrics(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
