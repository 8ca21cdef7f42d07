"""Gemma 1, 2 and 3's weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentloop.engine.models.weights import LayerWeights, ModelWeights, Reader
from agentloop.model_directory.architecture import Architecture


@dataclass(frozen=True)
class GemmaLayerWeights(LayerWeights):
    """Norm weights are what a normed value is multiplied by: the checkpoint's + 1, in fp32, where that loses nothing."""

    WIDE: ClassVar[tuple[str, ...]] = (
        "input_norm",
        "attention_norm",
        "feedforward_norm",
        "post_feedforward_norm",
        "query_norm",
        "key_norm",
    )


@dataclass(frozen=True)
class GemmaWeights(ModelWeights):
    WIDE: ClassVar[tuple[str, ...]] = ("final_norm",)


def load(shape: Architecture, reader: Reader, *, positions: int, offload_embedding: bool) -> GemmaWeights:
    """Read every tensor once; `positions` sizes RoPE. There are no per-layer embeddings that could be offloaded."""

    def norm(name: str):
        return reader.dense(f"{name}.weight").to(reader.wide) + 1

    layers = []
    for index in range(shape.layers):
        layer = f"layers.{index}"
        heads, branches = shape.norm_heads, shape.norm_branches
        # Gemma 1 calls the feed-forward's own norm by the name that the others give to that of attention's output.
        before = "pre_feedforward_layernorm" if branches else "post_attention_layernorm"
        layers.append(
            GemmaLayerWeights(
                index=index,
                input_norm=norm(f"{layer}.input_layernorm"),
                attention_norm=norm(f"{layer}.post_attention_layernorm") if branches else None,
                feedforward_norm=norm(f"{layer}.{before}"),
                post_feedforward_norm=norm(f"{layer}.post_feedforward_layernorm") if branches else None,
                query_norm=norm(f"{layer}.self_attn.q_norm") if heads else None,
                key_norm=norm(f"{layer}.self_attn.k_norm") if heads else None,
                **reader.groups(shape, index),
            )
        )
    embedding = reader.dense("embed_tokens.weight")
    return GemmaWeights(
        layers=tuple(layers),
        embedding=embedding,
        head=reader.head(embedding),
        final_norm=norm("norm"),
        rope=reader.rope(shape, positions),
    )
