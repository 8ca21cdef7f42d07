"""The shape of a Gemma language model, whichever generation.

One description for all: what a generation does not have is none, zero or one there. Gemma 3n has AltUp's streams, LAuReL,
per-layer embeddings, layers that share keys and values, and sparse feed-forwards; Gemma 3 has one stream and none of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SLIDING, FULL = "sliding_attention", "full_attention"
Family = Literal["gemma3n", "gemma3"]
_EVERYWHERE = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_LINEARS: dict[Family, tuple[str, ...]] = {
    "gemma3n": (
        *_EVERYWHERE,
        "laurel.linear_left",
        "laurel.linear_right",
        "per_layer_input_gate",
        "per_layer_projection",
    ),
    "gemma3": _EVERYWHERE,
}


@dataclass(frozen=True, eq=False)
class Architecture:
    """Sizes of a Gemma decoder (transformers' `Gemma3nTextConfig` or `Gemma3TextConfig`, with per-layer lists as tuples)."""

    family: Family
    vocab: int
    hidden: int
    intermediate: tuple[int, ...]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    window: int
    layer_types: tuple[str, ...]
    rope_theta: dict[str, float]
    rope_factor: dict[str, float]
    """Layer type -> what positions are divided by (linear scaling); 1 where they are not."""
    query_scale: float
    """Of attention's scores: 1 in Gemma 3n, query_pre_attn_scalar^-1/2 in Gemma 3."""
    norm_values: bool
    """v is normed too."""
    softcap: float | None
    """c of c tanh(logits / c)."""
    ple_vocab: int
    """Rows of the per-layer embedding table; ids beyond it use row 0, as transformers' multimodal model does."""
    ple: int
    """Width of one layer's per-layer input."""
    streams: int
    """AltUp inputs."""
    coef_clip: float | None
    shared_layers: int
    """Last layers, which have no k/v projections and read the K/V of the last unshared layer of their type."""
    laurel_rank: int
    sparsity: tuple[float, ...]

    @property
    def first_shared(self) -> int:
        """First layer that reads another layer's K/V; equals `layers` where none does."""
        return self.layers - self.shared_layers

    @property
    def boundary(self) -> int:
        """The last layer with K/V of its own. After its K/V only supervised tokens matter (ENGINE: exact skipping)."""
        return self.first_shared - 1

    def kv_source(self, layer: int) -> int:
        """The layer whose K/V `layer` attends to."""
        if layer < self.first_shared:
            return layer
        return max(i for i in range(self.first_shared) if self.layer_types[i] == self.layer_types[layer])

    @property
    def linears(self) -> list[str]:
        """Every linear inside the layers: `layers.N.self_attn.q_proj` and the like."""
        shared = ("self_attn.k_proj", "self_attn.v_proj")
        return [
            f"layers.{layer}.{name}"
            for layer in range(self.layers)
            for name in _LINEARS[self.family]
            if layer < self.first_shared or name not in shared
        ]
