"""What a training step would need on a card, from config.json alone: no weights, no GPU."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop.engine.batch.shapes import STEP
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.memory.plans import GIB, Keep, StepPlan
from agentloop.engine.meta.blueprint import blueprint
from agentloop.engine.meta.shapes import Shapes
from agentloop.engine.optimizer import FlatAdamW
from agentloop.engine.step.model import AUTO_SHARE, LanguageModel
from agentloop.errors import SettingError
from agentloop.model_directory import tensors
from agentloop.model_directory.architecture import Architecture
from agentloop.model_directory.configuration import read_architecture
from agentloop.records import NF4, Quantization

DESKTOP = 0.3
"""GiB of a card that others take: a desktop, the driver."""
MOST = 2**18
"""Tokens; no longer steps are looked at."""
WORDS = {Keep.STREAMS: "streams", Keep.DOWN: "down_proj", Keep.ATTENTION: "attention", Keep.ALL: "everything"}


@dataclass(frozen=True)
class Forecast:
    """One training step under one budget."""

    budget: float
    """GiB of the device that the process may hold."""
    plan: StepPlan
    peak: float
    """GiB that it is predicted to hold, CUDA's context included."""
    longest: int
    """Tokens of the largest step that fits, with as much as possible recomputed and in host memory; 0 where none does."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.budget

    @property
    def keeps(self) -> str:
        """The plan in words."""
        counts = Counter(self.plan.keep)
        kept = ", ".join(f"{counts[level]} × {WORDS[level]}" for level in Keep if counts[level])
        host = "; streams in host memory" if self.plan.offload else ""
        return f"{kept}{host}; {self.plan.chunk:,} tokens, {self.plan.head_rows:,} rows of logits at once"


class StepForecast:
    """A step of `tokens` packed tokens, a share `supervised` of which is trained on, with the model in `directory`.

    `dtype` is what is computed in. Raises ModelError where the directory's config.json
    is missing, not supported or contradicts weights beside it, SettingError where a number makes no sense.
    """

    def __init__(
        self,
        directory: Path,
        tokens: int,
        *,
        supervised: float = 1.0,
        rank: int = 16,
        targets: tuple[str, ...] = TARGETS,
        quantization: Quantization = NF4,
        optimizer_bits: Literal[8, 32] = 32,
        dtype: torch.dtype = torch.bfloat16,
        max_seq_length: int | None = None,
    ) -> None:
        if tokens < 2:
            raise SettingError(f"--tokens: {tokens} is too few, a step needs at least 2")
        if not 0 < supervised <= 1:
            raise SettingError(f"--supervised: {supervised} is not a share above 0 and up to 1")
        shape = read_architecture(directory)
        if any(directory.glob("*.safetensors")):
            tensors.check(directory)
        self.model: LanguageModel = in_training(
            shape,
            dtype=dtype,
            max_seq_length=max_seq_length or tokens,
            quantization=quantization,
            rank=rank,
            targets=targets,
            optimizer_bits=optimizer_bits,
        )
        self.supervised = supervised
        self.batch = _batch(tokens, supervised)
        self.model.expect([self.batch])

    def under(self, budget: float) -> Forecast:
        """Return what the engine would choose with `budget` GiB, and what that needs."""
        if not 0 < budget < math.inf:
            raise SettingError(f"--budget: {budget} is not a number of GiB above 0")
        plan = self.model.plan = self.model.plan_within(self.batch, int(budget * GIB))
        return Forecast(budget, plan, self.model.predicted_peak(self.batch) / GIB, self._longest(budget))

    def on_card(self, memory: float) -> Forecast:
        """The same for a card of `memory` GiB that nothing else uses, with memory_budget="auto"."""
        return self.under(AUTO_SHARE * (memory - DESKTOP))

    def _longest(self, budget: float) -> int:
        shape = self.model.shape
        position = len(self.model.weights.rope) * shape.head_dim * 4

        def fits(steps: int) -> bool:
            batch = _batch(steps * STEP, self.supervised)
            self.model.expect([batch])
            rope = (batch.tokens - self.batch.tokens) * position
            return self.model.needed(batch) + rope <= budget * GIB

        most = bisect_left(range(1, MOST // STEP), True, key=lambda steps: not fits(steps))
        self.model.expect([self.batch])
        return STEP * most

    @property
    def least(self) -> float:
        """GiB that the process holds with the leanest plan."""
        return self.model.needed(self.batch) / GIB

    @property
    def resident(self) -> dict[str, float]:
        """GiB that are in use whatever the batch."""
        model, lora = self.model, self.model.lora
        return {
            "weights": model.weights.device_bytes / GIB,
            "adapter, gradients and AdamW": (lora.nbytes + lora.optimizer_bytes) / GIB,
            "dequantised matrices": model.workspace.bytes_for(model.weights.layers) / GIB,
        }

    @property
    def host_table(self) -> float:
        """GiB of host memory for the per-layer embeddings."""
        shape = self.model.shape
        return shape.ple_vocab * shape.layers * shape.ple * self.model.dtype.itemsize / GIB


def in_training(shape: Architecture, *, optimizer_bits: Literal[8, 32], **options: Any) -> LanguageModel:
    """The blueprint of a model as it is trained on a card, its optimizer included. `options` as `blueprint` takes them."""
    with Shapes():
        model = blueprint(shape, **options)
        FlatAdamW(model.lora, bits=optimizer_bits)  # the adapter knows from then on what its optimizer keeps
    # Batches are padded as for CUDA graphs, which a card will use.
    model.graphs = True
    return model


def _batch(tokens: int, supervised: float) -> PackedBatch:
    """One sequence, whose first tokens are trained on: the longest attention that so many tokens can have."""
    positions = torch.arange(tokens)
    labels = torch.where(positions < max(1, round(supervised * tokens)), 0, IGNORED)
    ends = torch.tensor([0, tokens], dtype=torch.int32)
    return PackedBatch(torch.zeros_like(positions), labels, positions, ends, tokens)
