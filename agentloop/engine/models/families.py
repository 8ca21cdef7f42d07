"""What each generation of Gemma computes with, by `Architecture.family`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import PackedWeights
from agentloop.engine.models.gemma import embedding as gemma_embedding
from agentloop.engine.models.gemma import layer as gemma_layer
from agentloop.engine.models.gemma import weights as gemma_weights
from agentloop.engine.models.gemma3n import embedding as gemma3n_embedding
from agentloop.engine.models.gemma3n import layer as gemma3n_layer
from agentloop.engine.models.gemma3n import weights as gemma3n_weights
from agentloop.engine.models.weights import ModelWeights, Reader
from agentloop.engine.numerics.modes import usual_modes
from agentloop.model_directory.architecture import Architecture


@dataclass(frozen=True)
class Parts:
    load: Callable[..., ModelWeights]
    embedding: Callable[..., Any]
    layer: Callable[..., Any]


FAMILIES = {
    "gemma3n": Parts(gemma3n_weights.load, gemma3n_embedding.Gemma3nEmbedding, gemma3n_layer.Gemma3nLayer),
    "gemma": Parts(gemma_weights.load, gemma_embedding.GemmaEmbedding, gemma_layer.GemmaLayer),
}


@usual_modes()
def load_weights(
    shape: Architecture,
    checkpoint: Checkpoint,
    packed: PackedWeights | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    positions: int,
    offload_embedding: bool = True,
    offload_linears: bool = False,
) -> ModelWeights:
    """Read every tensor once. `packed` gives the NF4 linears (None: keep all in `dtype`); `positions` sizes RoPE."""
    reader = Reader(checkpoint, packed, device=device, dtype=dtype, offload_linears=offload_linears)
    return FAMILIES[shape.family].load(shape, reader, positions=positions, offload_embedding=offload_embedding)
