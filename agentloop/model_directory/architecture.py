"""The shape of a Gemma language model, whichever generation.

One description for all: what a generation does not have is none, zero or one there. Gemma 3n has AltUp's streams, LAuReL,
per-layer embeddings, layers that share keys and values, and sparse feed-forwards; Gemma 1, 2 and 3 have one stream and none
of these, and are one family here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SLIDING, FULL = "sliding_attention", "full_attention"
Family = Literal["gemma3n", "gemma"]
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
    "gemma": _EVERYWHERE,
}


@dataclass(frozen=True, eq=False)
class Architecture:
    """Sizes of a Gemma decoder (transformers' configuration of its generation, with per-layer lists as tuples)."""

    family: Family
    vocab: int
    hidden: int
    intermediate: tuple[int, ...]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    window: int | None
    """Keys that a sliding layer sees, oneself included; None where no layer slides."""
    layer_types: tuple[str, ...]
    rope_theta: dict[str, float]
    """For each layer type that there is."""
    rope_factor: dict[str, float]
    """Layer type -> what positions are divided by (linear scaling); 1 where they are not."""
    query_scale: float
    """What attention's scores are multiplied by: 1 in Gemma 3n."""
    attention_softcap: float | None
    """c of c tanh(score / c): Gemma 2's."""
    norm_heads: bool
    """q and k are normed: not in Gemma 1 and 2."""
    norm_values: bool
    """v is normed too: in Gemma 3n."""
    norm_branches: bool
    """What attention and feed-forward give is normed before it is added: not in Gemma 1."""
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
