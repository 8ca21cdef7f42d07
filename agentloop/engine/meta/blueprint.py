"""A model that has shapes but no weights: everything on torch's meta device, from config.json alone.

It answers what a real one would need and do on a CUDA device: how much memory a step takes (`agentloop doctor --train`) and
which kernels it launches (warmup/compilation.py). Nothing is read, nothing is computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor

from agentloop.engine.io.packed import PackedWeights
from agentloop.engine.lora.buffer import TARGETS, LoraSettings
from agentloop.engine.models.families import load_weights
from agentloop.engine.step.model import LanguageModel
from agentloop.model_directory import tensors
from agentloop.model_directory.architecture import Architecture
from agentloop.records import NF4, Quantization
from agentloop_kernels.nf4 import BLOCK, NESTED_BLOCK, Nf4

META = torch.device("meta")


def blueprint(
    shape: Architecture,
    *,
    dtype: torch.dtype = torch.bfloat16,
    max_seq_length: int,
    quantization: Quantization = NF4,
    resident: bool = False,
    rank: int = 16,
    targets: Sequence[str] = TARGETS,
    memory_budget: float | Literal["auto"] = "auto",
) -> LanguageModel:
    """The model that `FastLanguageModel` would make on a CUDA device, with an adapter, as meta tensors."""
    checkpoint = ImpliedCheckpoint(shape)
    model = LanguageModel(
        shape,
        load_weights(
            shape,
            checkpoint,
            checkpoint.packed(quantization.in_16bit) if quantization.in_4bit else None,
            device=META,
            dtype=dtype,
            positions=max_seq_length,
        ),
        fingerprint="",
        device=META,
        dtype=dtype,
        max_seq_length=max_seq_length,
        memory_budget=memory_budget,
        resident=resident,
        graphs=False,
    )
    model.attach_lora(LoraSettings(rank=rank, targets=tuple(targets)))
    return model


class ImpliedCheckpoint:
    """The tensors that a checkpoint of this architecture holds. Stands where a `Checkpoint` is read."""

    def __init__(self, shape: Architecture) -> None:
        self.shape = shape

    def head(self) -> None:
        """Tied to the embeddings, as in every Gemma."""

    def packed(self, in_16bit: Collection[str] = ()) -> PackedWeights:
        """Its NF4 linears, without those named."""
        weights = {name: self.tensor(f"{name}.weight") for name in self.shape.linears if name not in in_16bit}
        return PackedWeights({name: _packed(w) for name, w in weights.items() if w.shape[1] % BLOCK == 0})

    def tensor(self, name: str) -> Tensor:
        """`name` as in `Checkpoint.tensor`: [..] bf16 on the meta device. Raises KeyError where the model has none."""
        return torch.empty(tensors.size(self.shape, name), dtype=torch.bfloat16, device=META)


def _packed(weight: Tensor) -> Nf4:
    blocks = weight.numel() // BLOCK
    return Nf4(
        packed=torch.empty(weight.numel() // 2, dtype=torch.uint8, device=META),
        absmax8=torch.empty(blocks, dtype=torch.uint8, device=META),
        absmax_scale=torch.empty(-(-blocks // NESTED_BLOCK), dtype=torch.float32, device=META),
        offset=torch.empty((), dtype=torch.float32, device=META),
        shape=tuple(weight.shape),
    )
