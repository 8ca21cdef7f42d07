"""The train loop: stored ids in, adapter out.

Every batch is a function of (rows, settings, seed, epoch), so a run that continues from a checkpoint sees the batches
that the undisturbed run would have seen and ends in the same weights.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import PackedBatch, pack
from agentloop.engine.optimizer import FlatAdamW
from agentloop.files import atomic
from agentloop.settings import Training
from agentloop.training import checkpoint, reference, rows
from agentloop.training.run import TrainingRun
from agentloop.training.schedule import learning_rate


@dataclass(frozen=True)
class StepMetrics:
    step: int
    """From 1."""
    steps: int
    epoch: int
    loss: float
    """Nats per supervised token."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    supervised: int
    seconds: float


def train(run: TrainingRun, *, checkpoint_steps: int, on_step: Callable[[StepMetrics], None]) -> Path:
    """Train the run's adapter, or continue it, and return its directory. Does nothing where it is already there."""
    if run.output.exists():
        return run.output
    settings = Training(**run.adapter.training)
    sequences = rows.read(run.rows)
    batches = plan_batches(sequences, settings, run.adapter.seed)
    model, _ = FastLanguageModel.from_pretrained(
        str(run.model),
        max_seq_length=max(batch.max_seqlen for _, batch in batches),
        load_in_4bit=settings.load_in_4bit,
        cache_directory=run.cache,
    )
    base = reference.measure_base(model, sequences)
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        random_state=run.adapter.seed,
    )
    if run.adapter.parent:
        model.load_adapter(run.adapters / run.adapter.parent)
    optimizer = FlatAdamW(model.lora, weight_decay=settings.weight_decay)

    done = 0
    if saved := checkpoint.read(run.checkpoint):
        done, tensors = saved
        optimizer.load_state(tensors)
    _truncate(run.metrics, done)
    with SummaryWriter(run.tensorboard / run.adapter.id, purge_step=done + 1) as board, open(run.metrics, "a") as log:
        for step in range(done, len(batches)):
            started = time.perf_counter()
            epoch, batch = batches[step]
            rate = learning_rate(
                step, len(batches), peak=settings.learning_rate, warmup_fraction=settings.warmup_fraction
            )
            loss = model.loss_and_gradients(batch)
            grad_norm = optimizer.step(learning_rate=rate, max_grad_norm=settings.max_grad_norm)
            metrics = StepMetrics(
                step=step + 1,
                steps=len(batches),
                epoch=epoch,
                loss=loss.mean,
                grad_norm=float(grad_norm),
                learning_rate=rate,
                tokens=batch.tokens,
                supervised=loss.supervised,
                seconds=time.perf_counter() - started,
            )
            log.write(json.dumps(asdict(metrics)) + "\n")
            for name in ("loss", "grad_norm", "learning_rate"):
                board.add_scalar(f"train/{name}", getattr(metrics, name), metrics.step)
            if metrics.step % checkpoint_steps == 0 and metrics.step < len(batches):
                log.flush()
                os.fsync(log.fileno())
                checkpoint.write(run.checkpoint, optimizer.state(), step=metrics.step)
            on_step(metrics)
    with atomic(run.output) as directory:
        model.save_pretrained(directory)
        reference.write(directory, model, base)
    run.checkpoint.unlink(missing_ok=True)
    return run.output


def plan_batches(
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], settings: Training, seed: int
) -> list[tuple[int, PackedBatch]]:
    """(epoch, batch) for every optimizer step. `sequences`: (token_ids, mask); each epoch is another shuffle of them all."""
    batches = []
    for epoch in range(settings.epochs):
        order = list(range(len(sequences)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        batches += [(epoch, batch) for batch in pack([sequences[index] for index in order], settings.batch_tokens)]
    return batches


def _truncate(metrics: Path, steps: int) -> None:
    """Drop the lines of steps that will be done again."""
    metrics.parent.mkdir(parents=True, exist_ok=True)
    lines = metrics.read_text().splitlines(keepends=True)[:steps] if metrics.exists() else []
    metrics.write_text("".join(lines))
