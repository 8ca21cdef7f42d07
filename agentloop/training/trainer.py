"""The train loop: stored ids in, adapter out.

Every batch is a function of (rows, settings, seed, epoch), so a run that continues from a checkpoint sees the batches
that the undisturbed run would have seen and ends in the same weights.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agentloop import card
from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import PackedBatch, pack, split
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.settings import Training
from agentloop.training import checkpoint, memory, reference, rows
from agentloop.training.journal import Journal, StepMetrics
from agentloop.training.memory import CardMemory
from agentloop.training.ranks import Ranks
from agentloop.training.run import TrainingRun
from agentloop.training.schedule import learning_rate
from agentloop.training.shortage import ran_out

_BEHIND = 1
"""Steps whose loss is not read yet when the next one is given to the device."""


def train(
    run: TrainingRun,
    *,
    checkpoint_steps: int,
    memory_budget: float | Literal["auto"] = "auto",
    on_step: Callable[[StepMetrics], None],
    on_part: Callable[[str], None] = lambda part: None,
    free_bytes: Callable[[], tuple[int, ...]] = card.free_bytes,
    ranks: Ranks,
) -> Path:
    """Train the run's adapter, or continue it, and return its directory. Does nothing where it is already there.

    `memory_budget`: GiB of the GPU that the process may hold at its peak. `on_part` is told the name of each part that comes
    before the steps when it has ended; `free_bytes` tells what is free on each card. Every process of `ranks` calls this; a
    batch's sequences are dealt out among them, so its gradient does not depend on their number. Raises SettingError where the
    card is too small, Shortage where a step found less memory than was planned for it.
    """
    if run.output.exists():
        return run.output
    settings, quantization = run.settings, run.quantization
    sequences = rows.read(run.rows)
    batches = plan_batches(sequences, settings, run.adapter.seed)
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    shares = [batch if ranks.count == 1 else split(batch, ranks.count)[ranks.index] for _, batch in batches]
    on_part("batches")
    memory.check(
        run.model, shares, settings, quantization, dtype=dtype, budget=memory_budget, device=ranks.index,
        free_bytes=free_bytes,
    )  # fmt: skip
    on_part("check")
    model, _ = FastLanguageModel.from_pretrained(
        str(run.model),
        max_seq_length=max(batch.max_seqlen for _, batch in batches),
        dtype=dtype,
        load_in_4bit=quantization.in_4bit,
        in_16bit=quantization.in_16bit,
        memory_budget=memory_budget,
        cache_directory=run.cache,
        with_tokenizer=False,  # the rows are ids
    )
    on_part("weights")
    base = reference.measure_base(model, sequences) if ranks.leads else None
    on_part("yardstick")
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
        random_state=run.adapter.seed,
    )
    if run.adapter.parent:
        model.load_adapter(run.adapters / run.adapter.parent)
    model.expect(shares)
    optimizer = FlatAdamW(model.lora, weight_decay=settings.weight_decay, bits=settings.optimizer_bits)

    done = 0
    if saved := checkpoint.read(run.checkpoint):
        done, tensors = saved
        optimizer.load_state(tensors)
    journal = Journal(run, done=done) if ranks.leads else None
    held = CardMemory(model)
    on_part("adapter")
    taken: deque[_Step] = deque()  # the device is at the last of them while the next one is prepared
    ended = time.perf_counter()
    for step in range(done, len(batches)):
        (_, batch), share = batches[step], shares[step]
        rate = learning_rate(step, len(batches), peak=settings.learning_rate, warmup_fraction=settings.warmup_fraction)
        try:
            loss = model.loss_and_gradients(share, weight=1 / max(batch.supervised, 1)).loss_sum
        except Exception as error:
            if model.device.type == "cuda" and ran_out(error):
                raise held.shortage(share) from error
            raise
        ranks.add_up(loss)
        ranks.add_up(model.lora.gradients)
        grad_norm = optimizer.step(learning_rate=rate, max_grad_norm=settings.max_grad_norm)
        taken.append(_Step(step, rate, loss, grad_norm))
        last, saved_now = step + 1 == len(batches), (step + 1) % checkpoint_steps == 0
        while len(taken) > (0 if last or saved_now else _BEHIND):
            metrics = taken.popleft().metrics(batches, began=ended, memory_gib=held.look())
            ended = time.perf_counter()
            if not math.isfinite(metrics.loss + metrics.grad_norm):
                raise ModelError(f"step {metrics.step}: loss or gradient is not finite in {model.dtype}")
            if journal:
                journal.record(metrics)
                on_step(metrics)
        if journal and saved_now and not last:
            journal.sync()
            checkpoint.write(run.checkpoint, optimizer.state(), step=step + 1)
    if journal and base:
        journal.close()
        model.release_graphs()  # the yardstick needs room of its own
        with atomic(run.output) as directory:
            model.save_pretrained(directory)
            reference.write(directory, model, base)
        run.checkpoint.unlink(missing_ok=True)
    return run.output


@dataclass(frozen=True)
class _Step:
    """An optimizer step that the device may still be at."""

    index: int
    learning_rate: float
    loss_sum: Tensor
    grad_norm: Tensor

    def metrics(
        self, batches: Sequence[tuple[int, PackedBatch]], *, began: float, memory_gib: float | None
    ) -> StepMetrics:
        """Wait until the step is done. `began`: when the one before it was, by time.perf_counter."""
        epoch, batch = batches[self.index]
        return StepMetrics(
            step=self.index + 1,
            steps=len(batches),
            epoch=epoch,
            loss=float(self.loss_sum) / max(batch.supervised, 1),
            grad_norm=float(self.grad_norm),
            learning_rate=self.learning_rate,
            tokens=batch.tokens,
            supervised=batch.supervised,
            seconds=time.perf_counter() - began,
            memory_gib=memory_gib,
        )


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
