"""Gemma 3's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentloop.engine.architecture import Architecture
from agentloop.engine.weights import LayerWeights, ModelWeights, Reader


@dataclass(frozen=True)
class Gemma3LayerWeights(LayerWeights):
    """Norm weights are what a normed value is multiplied by (the checkpoint's + 1), the query's also by attention's scale."""

    WIDE: ClassVar[tuple[str, ...]] = (
        "input_norm",
        "attention_norm",
        "feedforward_norm",
        "post_feedforward_norm",
        "query_norm",
        "key_norm",
    )
    # Added in 16 bit, the 1 would cost the stored weight its last bits.


@dataclass(frozen=True)
class Gemma3Weights(ModelWeights):
    WIDE: ClassVar[tuple[str, ...]] = ("final_norm",)


def load(shape: Architecture, reader: Reader, *, positions: int, offload_embedding: bool) -> Gemma3Weights:
    """Read every tensor once; `positions` sizes RoPE. There are no per-layer embeddings that could be offloaded."""

    def norm(name: str):
        return reader.dense(f"{name}.weight").to(reader.wide) + 1

    layers = []
    for index in range(shape.layers):
        layer = f"layers.{index}"
        layers.append(
            Gemma3LayerWeights(
                index=index,
                input_norm=norm(f"{layer}.input_layernorm"),
                attention_norm=norm(f"{layer}.post_attention_layernorm"),
                feedforward_norm=norm(f"{layer}.pre_feedforward_layernorm"),
                post_feedforward_norm=norm(f"{layer}.post_feedforward_layernorm"),
                query_norm=norm(f"{layer}.self_attn.q_norm") * shape.query_scale,
                key_norm=norm(f"{layer}.self_attn.k_norm"),
                **reader.groups(shape, index),
            )
        )
    embedding = reader.dense("embed_tokens.weight")
    return Gemma3Weights(
        layers=tuple(layers),
        embedding=embedding,
        head=reader.head(embedding),
        final_norm=norm("norm"),
        rope=reader.rope(shape, positions),
    )
