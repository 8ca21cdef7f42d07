"""A checkpoint's language model as the engine holds it: norms and routers as they are, layer linears in NF4.

Of a layer's linears those whose width is a multiple of 64 are packed (QLoRA's double-quantised NF4); AltUp's router and
coefficients, its projections, the per-layer model projection, embeddings and head stay as they are stored.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import torch
from agentloop_kernels.altup import fold_router
from agentloop_kernels.rope import rope_table
from torch import Tensor

from agentloop.engine.architecture import Architecture
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.packed import PackedWeights
from agentloop.engine.projection import ProjectionGroup
from agentloop.engine.table import EmbeddingTable


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Norm weights [hidden] (q, k: [head_dim]), groups of linears that share an input."""

    index: int
    input_norm: Tensor
    attention_norm: Tensor
    laurel_norm: Tensor
    feedforward_norm: Tensor
    post_feedforward_norm: Tensor
    ple_norm: Tensor
    query_norm: Tensor
    key_norm: Tensor | None
    router: Tensor
    """[streams, hidden] fp32, see altup.fold_router."""
    prediction: Tensor
    correction: Tensor
    scale: Tensor
    query: ProjectionGroup
    """[q | k | v | laurel left]; [q | laurel left] where k and v are apart or another layer's."""
    key_value: ProjectionGroup | None
    """[k | v] of the boundary layer, which all tokens need while q is needed by supervised ones only."""
    output: ProjectionGroup
    laurel: ProjectionGroup
    gate_up: ProjectionGroup
    down: ProjectionGroup
    ple_gate: ProjectionGroup
    ple_projection: ProjectionGroup

    @property
    def groups(self) -> tuple[ProjectionGroup, ...]:
        parts = (
            self.query,
            self.key_value,
            self.output,
            self.laurel,
            self.gate_up,
            self.down,
            self.ple_gate,
            self.ple_projection,
        )
        return tuple(group for group in parts if group is not None)


@dataclass(frozen=True)
class ModelWeights:
    layers: tuple[LayerWeights, ...]
    embedding: Tensor
    """[vocab, hidden]."""
    head: Tensor
    """[vocab, hidden]; the embedding itself where they are tied."""
    ple_table: EmbeddingTable
    """[ple_vocab, layers * ple]."""
    ple_model_projection: Tensor
    ple_projection_norm: Tensor
    altup: Tensor
    """[streams - 1, hidden, hidden]: from the embedding to the other streams."""
    unembed: Tensor
    """[streams - 1, hidden, hidden]: and back."""
    final_norm: Tensor
    rope: dict[str, Tensor]
    """Layer type -> [positions, head_dim] fp32."""

    @property
    def device_bytes(self) -> int:
        """Everything but what stays in host memory."""
        linears = [weight.nbytes for layer in self.layers for group in layer.groups for _, weight in group.parts]
        small = [
            getattr(layer, f.name).nbytes
            for layer in self.layers
            for f in fields(layer)
            if isinstance(getattr(layer, f.name), Tensor)
        ]
        shared = {
            id(t): t.nbytes
            for t in (
                self.embedding,
                self.head,
                self.ple_model_projection,
                self.ple_projection_norm,
                self.altup,
                self.unembed,
                self.final_norm,
                *self.rope.values(),
            )
        }
        return sum(linears) + sum(small) + sum(shared.values()) + self.ple_table.device_bytes


def load_weights(
    shape: Architecture,
    checkpoint: Checkpoint,
    packed: PackedWeights | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    positions: int,
    offload_embedding: bool = True,
) -> ModelWeights:
    """Read every tensor once. `packed` gives the NF4 linears (None: keep all in `dtype`); `positions` sizes RoPE."""

    def dense(name: str) -> Tensor:
        return checkpoint.tensor(name).to(device, dtype)

    def linear(name: str):
        return packed.linear(name) if packed and name in packed else dense(f"{name}.weight")

    def group(kind: str, layer: str, *names: str) -> ProjectionGroup:
        return ProjectionGroup(kind, [(f"{layer}.{name}", linear(f"{layer}.{name}")) for name in names])

    def table() -> EmbeddingTable:
        weight = checkpoint.tensor("embed_tokens_per_layer.weight")
        return EmbeddingTable(weight, dtype, device, on_host=offload_embedding)

    # Registering gigabytes with CUDA takes its time, in which the rest is read.
    thread = ThreadPoolExecutor(1)
    ple_table = thread.submit(table)
    thread.shutdown(wait=False)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    layers = []
    for index in range(shape.layers):
        layer = f"layers.{index}"
        own = index < shape.first_shared
        apart = index == shape.boundary
        attention = ["self_attn.q_proj"] + (["self_attn.k_proj", "self_attn.v_proj"] if own and not apart else [])
        clip = shape.coef_clip if shape.coef_clip is not None else float("inf")
        layers.append(
            LayerWeights(
                index=index,
                input_norm=dense(f"{layer}.input_layernorm.weight"),
                attention_norm=dense(f"{layer}.post_attention_layernorm.weight"),
                laurel_norm=dense(f"{layer}.laurel.post_laurel_norm.weight"),
                feedforward_norm=dense(f"{layer}.pre_feedforward_layernorm.weight"),
                post_feedforward_norm=dense(f"{layer}.post_feedforward_layernorm.weight"),
                ple_norm=dense(f"{layer}.post_per_layer_input_norm.weight"),
                query_norm=dense(f"{layer}.self_attn.q_norm.weight"),
                key_norm=dense(f"{layer}.self_attn.k_norm.weight") if own else None,
                router=fold_router(
                    dense(f"{layer}.altup.modality_router.weight"), dense(f"{layer}.altup.router_norm.weight")
                ),
                prediction=dense(f"{layer}.altup.prediction_coefs.weight").to(wide).clamp(-clip, clip),
                correction=dense(f"{layer}.altup.correction_coefs.weight").to(wide).clamp(-clip, clip),
                scale=dense(f"{layer}.altup.correct_output_scale"),
                query=group("query", layer, *attention, "laurel.linear_left"),
                key_value=group("key_value", layer, "self_attn.k_proj", "self_attn.v_proj") if apart else None,
                output=group("output", layer, "self_attn.o_proj"),
                laurel=group("laurel", layer, "laurel.linear_right"),
                gate_up=group("gate_up", layer, "mlp.gate_proj", "mlp.up_proj"),
                down=group("down", layer, "mlp.down_proj"),
                ple_gate=group("ple_gate", layer, "per_layer_input_gate"),
                ple_projection=group("ple_projection", layer, "per_layer_projection"),
            )
        )
    embedding = dense("embed_tokens.weight")
    head = checkpoint.head()
    others = range(shape.streams - 1)
    return ModelWeights(
        layers=tuple(layers),
        embedding=embedding,
        head=embedding if head is None else head.to(device, dtype),
        ple_table=ple_table.result(),
        ple_model_projection=dense("per_layer_model_projection.weight"),
        ple_projection_norm=dense("per_layer_projection_norm.weight"),
        altup=torch.stack([dense(f"altup_projections.{i}.weight") for i in others]),
        unembed=torch.stack([dense(f"altup_unembed_projections.{i}.weight") for i in others]),
        final_norm=dense("norm.weight"),
        rope={
            kind: rope_table(frequencies(theta, shape.head_dim).to(device, wide), positions)
            for kind, theta in shape.rope_theta.items()
        },
    )


def frequencies(theta: float, head_dim: int) -> Tensor:
    """Inverse frequencies of the rotary embedding, [head_dim / 2], in fp32 as transformers computes them."""
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
