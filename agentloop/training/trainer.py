"""The train loop: stored ids in, adapter out.

Every batch is a function of (rows, settings, seed, epoch), so a run that continues from a checkpoint sees the batches
that the undisturbed run would have seen and ends in the same weights.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agentloop import card
from agentloop.engine import FastLanguageModel
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.settings import Bounds, Training
from agentloop.training import bounds, checkpoint, gradient, memory, objectives, reference, rows, steps
from agentloop.training.gradient import Sums
from agentloop.training.journal import Journal, StepMetrics
from agentloop.training.memory import CardMemory
from agentloop.training.objectives.objective import Objective, Row
from agentloop.training.ranks import Ranks
from agentloop.training.run import TrainingRun
from agentloop.training.schedule import learning_rate
from agentloop.training.shortage import ran_out
from agentloop.training.steps import Step

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
    objective, limits = objectives.chosen(settings), Bounds(**run.bounds)
    trained_on = objective.rows(rows.read_examples(run.rows))
    if not trained_on:
        raise ModelError(f"training.objective: {settings.objective} has nothing to learn from the dataset's rows")
    planned = plan_steps(trained_on, objective, settings, run.adapter.seed)
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    every = [share for step in planned for share in step.shares(ranks.index, ranks.count, weighed=False)]
    on_part("batches")
    memory.check(
        run.model, every, settings, quantization, dtype=dtype, budget=memory_budget, device=ranks.index,
        free_bytes=free_bytes,
    )  # fmt: skip
    on_part("check")
    model, _ = FastLanguageModel.from_pretrained(
        str(run.model),
        max_seq_length=max(batch.max_seqlen for step in planned for batch in step.batches),
        dtype=dtype,
        load_in_4bit=quantization.in_4bit,
        in_16bit=quantization.in_16bit,
        memory_budget=memory_budget,
        cache_directory=run.cache,
        with_tokenizer=False,  # the rows are ids
    )
    on_part("weights")
    sequences = [(row.token_ids, row.mask) for row in trained_on]
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
    model.expect(every)
    for policy, column in objective.asks.items():
        gradient.ask(model, trained_on, policy, column, budget=settings.batch_tokens, ranks=ranks)
    optimizer = FlatAdamW(model.lora, weight_decay=settings.weight_decay, bits=settings.optimizer_bits)

    done = 0
    if saved := checkpoint.read(run.checkpoint):
        done, tensors = saved
        optimizer.load_state(tensors)
    journal = Journal(run, done=done) if ranks.leads else None
    held = CardMemory(model)
    on_part("adapter")
    taken: deque[_Taken] = deque()  # the device is at the last of them while the next one is prepared
    ended = time.perf_counter()
    observe = objective.rule is not None or limits.min_entropy is not None
    for index in range(done, len(planned)):
        step = planned[index]
        shares = step.shares(ranks.index, ranks.count)
        rate = learning_rate(index, len(planned), peak=settings.learning_rate, warmup_fraction=settings.warmup_fraction)
        try:
            sums = gradient.add_gradient(model, objective, step, shares, ranks, observe=observe)
        except Exception as error:
            if model.device.type == "cuda" and ran_out(error):
                raise held.shortage(max(shares, key=lambda share: share.tokens)) from error
            raise
        ranks.add_up(model.lora.gradients)
        grad_norm = optimizer.step(learning_rate=rate, max_grad_norm=settings.max_grad_norm)
        taken.append(_Taken(index, rate, sums, grad_norm))
        last, saved_now = index + 1 == len(planned), (index + 1) % checkpoint_steps == 0
        while len(taken) > (0 if last or saved_now else _BEHIND):
            metrics = taken.popleft().metrics(planned, began=ended, memory_gib=held.look())
            ended = time.perf_counter()
            if not math.isfinite(metrics.loss + metrics.grad_norm):
                raise ModelError(f"step {metrics.step}: loss or gradient is not finite in {model.dtype}")
            if journal:
                journal.record(metrics)
                on_step(metrics)
            bounds.check(metrics, limits)
        if journal and saved_now and not last:
            journal.sync()
            checkpoint.write(run.checkpoint, optimizer.state(), step=index + 1)
    if journal and base:
        journal.close()
        model.release_graphs()  # the yardstick needs room of its own
        with atomic(run.output) as directory:
            model.save_pretrained(directory)
            reference.write(directory, model, base)
        run.checkpoint.unlink(missing_ok=True)
    return run.output


@dataclass(frozen=True)
class _Taken:
    """An optimizer step that the device may still be at."""

    index: int
    learning_rate: float
    sums: Sums
    grad_norm: Tensor

    def metrics(self, planned: Sequence[Step], *, began: float, memory_gib: float | None) -> StepMetrics:
        """Wait until the step is done. `began`: when the one before it was, by time.perf_counter."""
        step, sums = planned[self.index], self.sums.read()
        return StepMetrics(
            step=self.index + 1,
            steps=len(planned),
            epoch=step.epoch,
            loss=sums["loss"] / step.divisor,
            grad_norm=float(self.grad_norm),
            learning_rate=self.learning_rate,
            tokens=step.tokens,
            supervised=step.supervised,
            seconds=time.perf_counter() - began,
            memory_gib=memory_gib,
            nll=_share(sums, "nll", sums.get("successes", 0.0)),
            preferred=sums.get("preferred"),
            **{name: _share(sums, name, step.supervised) for name in ("entropy", "kl", "clipped", "truncated")},
        )


def _share(sums: Mapping[str, float], name: str, of: float) -> float | None:
    return sums[name] / of if name in sums and of else None


def plan_steps(trained_on: Sequence[Row], objective: Objective, settings: Training, seed: int) -> list[Step]:
    """Every optimizer step of a run with these settings."""
    return steps.plan(trained_on, objective, budget=settings.batch_tokens, epochs=settings.epochs, seed=seed)
