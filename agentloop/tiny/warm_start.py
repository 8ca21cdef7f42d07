"""Supervised training of the tiny model on demonstrations: plain torch, fp32, deterministic.

The loss is on the model's own tokens alone. Sequences are padded, not packed: the batches are small and of similar length.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Gemma3nForCausalLM

from agentloop.records import Trajectory

POOL_BATCHES = 16
"""Sequences of so many batches are sorted by length together, so that little is padded."""


@dataclass(frozen=True)
class WarmStart:
    """Settings of the warm start."""

    steps: int = 600
    batch: int = 48
    """Sequences in one optimizer step."""
    peak_learning_rate: float = 2.5e-3
    warmup_steps: int = 60
    final_fraction: float = 0.05
    """Of the peak learning rate, at the end of the cosine."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


def train(
    model: Gemma3nForCausalLM,
    trajectories: Sequence[Trajectory],
    settings: WarmStart,
    *,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train in place; the losses of all steps (nats per supervised token). `progress(step, loss)` after each."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.peak_learning_rate,
        betas=(0.9, 0.98),
    )
    model.train()
    losses = []
    for step, batch in zip(range(settings.steps), _batches(trajectories, settings.batch, seed)):
        for group in optimizer.param_groups:
            group["lr"] = settings.peak_learning_rate * _schedule(step, settings)
        loss = masked_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, losses[-1])
    model.eval()
    return losses


def masked_loss(model: Gemma3nForCausalLM, batch: Sequence[Trajectory]) -> torch.Tensor:
    """Mean cross-entropy of the supervised tokens given all before them (nats)."""
    length = max(len(trajectory.token_ids) for trajectory in batch)
    pad = model.config.pad_token_id
    ids = torch.tensor([[*trajectory.token_ids, *[pad] * (length - len(trajectory.token_ids))] for trajectory in batch])
    mask = torch.tensor([[*trajectory.mask, *[False] * (length - len(trajectory.mask))] for trajectory in batch])
    # Padding comes last: causal attention keeps it from every token that counts.
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])


def _schedule(step: int, settings: WarmStart) -> float:
    warmup = min(settings.warmup_steps, settings.steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    return settings.final_fraction + (1 - settings.final_fraction) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(trajectories: Sequence[Trajectory], size: int, seed: int) -> Iterator[list[Trajectory]]:
    """Endless batches of similar length, every trajectory once in an epoch."""
    rng = random.Random(seed)
    while True:
        order = rng.sample(range(len(trajectories)), len(trajectories))
        batches = []
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = sorted(
                order[start : start + size * POOL_BATCHES], key=lambda index: len(trajectories[index].token_ids)
            )
            cut = [pool[first : first + size] for first in range(0, len(pool), size)]
            rng.shuffle(cut)
            batches += cut
        for batch in batches:
            yield [trajectories[index] for index in batch]
