"""What a run writes down while it trains: a line of JSON for each step."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from agentloop.files import atomic
from agentloop.training.run import TrainingRun


@dataclass(frozen=True)
class StepMetrics:
    step: int
    """From 1."""
    steps: int
    epoch: int
    loss: float
    """Nats per supervised token; what an objective says it is where failures are learnt from (docs/objectives.md)."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    supervised: int
    seconds: float
    memory_gib: float | None = None
    """GiB of the GPU that the process has held at most so far, as nvidia-smi shows them; None on the CPU."""
    nll: float | None = None
    """Nats per supervised token of successes; None where the loss is that, or there was no success."""
    entropy: float | None = None
    """Nats: of the predicted distribution, the mean over supervised tokens; None where it was not asked for."""
    kl: float | None = None
    """Nats per supervised token: divergence from the policy that sampled, estimated from the tokens; None without stored log
    probabilities."""
    clipped: float | None = None
    """Share of supervised tokens that counted nothing because of a clip; None where nothing is clipped."""
    truncated: float | None = None
    """Share of supervised tokens whose ratio counted less than it is; None where nothing is truncated."""
    preferred: float | None = None
    """Share of pairs whose winner has gained more than the loser; None without pairs."""


class Journal:
    """A journal that goes on after the first `done` steps; lines of later ones, which will be done again, are dropped."""

    def __init__(self, run: TrainingRun, *, done: int) -> None:
        run.metrics.parent.mkdir(parents=True, exist_ok=True)
        # a power cut may have left anything behind the lines that were synced
        written = run.metrics.read_text(encoding="utf-8", errors="replace") if run.metrics.exists() else ""
        with atomic(run.metrics) as temporary:
            temporary.write_text("".join(written.splitlines(keepends=True)[:done]), encoding="utf-8")
        self._file = open(run.metrics, "a", encoding="utf-8")

    def record(self, metrics: StepMetrics) -> None:
        self._file.write(json.dumps(asdict(metrics)) + "\n")

    def sync(self) -> None:
        """Before a checkpoint: no step it holds may be missing here."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
