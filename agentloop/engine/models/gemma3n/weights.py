"""Gemma 3n's weights. AltUp's router and coefficients, its projections and the per-layer model projection stay unpacked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentloop.engine.lora.projection import ProjectionGroup
from agentloop.engine.models.table import EmbeddingTable
from agentloop.engine.models.weights import LayerWeights, ModelWeights, Reader
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.altup import fold_router


@dataclass(frozen=True)
class Gemma3nLayerWeights(LayerWeights):
    laurel_norm: Tensor
    ple_norm: Tensor
    router: Tensor
    """[streams, hidden] fp32, see altup.fold_router."""
    prediction: Tensor
    correction: Tensor
    scale: Tensor
    laurel: ProjectionGroup
    """From LAuReL's rank, which stands behind [q | k | v], to hidden."""
    ple_gate: ProjectionGroup
    ple_projection: ProjectionGroup

    WIDE: ClassVar[tuple[str, ...]] = ("router", "prediction", "correction")


@dataclass(frozen=True)
class Gemma3nWeights(ModelWeights):
    ple_table: EmbeddingTable
    """[ple_vocab, layers * ple]."""
    ple_model_projection: Tensor
    ple_projection_norm: Tensor
    altup: Tensor
    """[streams - 1, hidden, hidden]: from the embedding to the other streams."""
    unembed: Tensor
    """[streams - 1, hidden, hidden]: and back."""

    @property
    def device_bytes(self) -> int:
        return super().device_bytes + self.ple_table.device_bytes


def load(shape: Architecture, reader: Reader, *, positions: int, offload_embedding: bool) -> Gemma3nWeights:
    """Read every tensor once; `positions` sizes RoPE, `offload_embedding` leaves the per-layer embeddings on the host."""
    dense, wide = reader.dense, reader.wide

    def table() -> EmbeddingTable:
        weight = reader.checkpoint.tensor("embed_tokens_per_layer.weight")
        return EmbeddingTable(weight, reader.dtype, reader.device, on_host=offload_embedding)

    # Registering gigabytes with CUDA takes its time, in which the rest is read.
    thread = ThreadPoolExecutor(1)
    ple_table = thread.submit(table)
    thread.shutdown(wait=False)
    clip = shape.coef_clip if shape.coef_clip is not None else float("inf")
    layers = []
    for index in range(shape.layers):
        layer = f"layers.{index}"
        layers.append(
            Gemma3nLayerWeights(
                index=index,
                input_norm=dense(f"{layer}.input_layernorm.weight"),
                attention_norm=dense(f"{layer}.post_attention_layernorm.weight"),
                laurel_norm=dense(f"{layer}.laurel.post_laurel_norm.weight"),
                feedforward_norm=dense(f"{layer}.pre_feedforward_layernorm.weight"),
                post_feedforward_norm=dense(f"{layer}.post_feedforward_layernorm.weight"),
                ple_norm=dense(f"{layer}.post_per_layer_input_norm.weight"),
                query_norm=dense(f"{layer}.self_attn.q_norm.weight"),
                key_norm=dense(f"{layer}.self_attn.k_norm.weight") if index < shape.first_shared else None,
                router=fold_router(
                    dense(f"{layer}.altup.modality_router.weight"), dense(f"{layer}.altup.router_norm.weight")
                ),
                prediction=dense(f"{layer}.altup.prediction_coefs.weight").to(wide).clamp(-clip, clip),
                correction=dense(f"{layer}.altup.correction_coefs.weight").to(wide).clamp(-clip, clip),
                scale=dense(f"{layer}.altup.correct_output_scale"),
                **reader.groups(shape, index),
            )
        )
    embedding = dense("embed_tokens.weight")

    def stacked(kind: str) -> Tensor:
        matrices = [dense(f"{kind}.{i}.weight") for i in range(shape.streams - 1)]
        return torch.stack(matrices) if matrices else embedding.new_empty(0, shape.hidden, shape.hidden)

    return Gemma3nWeights(
        layers=tuple(layers),
        embedding=embedding,
        head=reader.head(embedding),
        ple_table=ple_table.result(),
        ple_model_projection=dense("per_layer_model_projection.weight"),
        ple_projection_norm=dense("per_layer_projection_norm.weight"),
        altup=stacked("altup_projections"),
        unembed=stacked("altup_unembed_projections"),
        final_norm=dense("norm.weight"),
        rope=reader.rope(shape, positions),
    )
