"""The shape of a Gemma language model, whichever generation.

One description for all: what a generation does not have is none, zero or one there. Gemma 3n has AltUp's streams, LAuReL,
per-layer embeddings, layers that share keys and values, and sparse feed-forwards; Gemma 1, 2 and 3 have one stream and none
of these, and are one family here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

SLIDING, FULL = "sliding_attention", "full_attention"
Family = Literal["gemma3n", "gemma"]
_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class LayerSpec:
    """The tensors of one decoder layer: what is read, checked, packed, multiplied by and counted is what stands here.

    Names are those of a checkpoint without `layers.N.`.
    """

    linears: Mapping[str, tuple[int, int]]
    """Name -> [outputs, inputs]; the tensor is called `.weight` behind it."""
    others: Mapping[str, tuple[int, ...]]
    """Name of every other tensor, norms and coefficients -> its size."""
    groups: Mapping[str, tuple[str, ...]]
    """Field of the engine's LayerWeights -> the linears that are one product there, because they read the same input."""
    unread: Mapping[str, tuple[int, ...]]
    """Tensors that a checkpoint may have, and of which nothing is read: keys and values of a layer that has another's."""

    def size(self, name: str) -> tuple[int, ...]:
        """Return the size of the tensor `name`. Raises KeyError where there is none."""
        if name.endswith(".weight") and (linear := self.linears.get(name.removesuffix(".weight"))):
            return linear
        return self.others[name] if name in self.others else self.unread[name]

    def outputs(self, group: str) -> int:
        """Return the width of what the linears of `group` give together."""
        return sum(self.linears[name][0] for name in self.groups[group])


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

    @cached_property
    def layer_specs(self) -> tuple[LayerSpec, ...]:
        """The tensors of each layer."""
        return tuple(_SPECS[self.family](self, layer) for layer in range(self.layers))

    @property
    def linears(self) -> list[str]:
        """Every linear inside the layers: `layers.N.self_attn.q_proj` and the like."""
        return [f"layers.{layer}.{name}" for layer, spec in enumerate(self.layer_specs) for name in spec.linears]


def _gemma(s: Architecture, layer: int) -> LayerSpec:
    hidden, inter, query, keys = s.hidden, s.intermediate[layer], s.heads * s.head_dim, s.kv_heads * s.head_dim
    own = {"self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden)}
    key_norm = {"self_attn.k_norm.weight": (s.head_dim,)} if s.norm_heads else {}
    shares = layer >= s.first_shared
    norms = _NORMS if s.norm_branches else _NORMS[:2]
    # The boundary layer's keys and values are computed for all tokens, its queries for fewer.
    beside = tuple(own) if layer < s.boundary else ()
    return LayerSpec(
        linears={
            "self_attn.q_proj": (query, hidden),
            **({} if shares else own),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (inter, hidden),
            "mlp.up_proj": (inter, hidden),
            "mlp.down_proj": (hidden, inter),
        },
        others={
            **{f"{name}.weight": (hidden,) for name in norms},
            **({"self_attn.q_norm.weight": (s.head_dim,)} if s.norm_heads else {}),
            **({} if shares else key_norm),
        },
        groups={
            "query": ("self_attn.q_proj", *beside),
            **({"key_value": tuple(own)} if layer == s.boundary else {}),
            "output": ("self_attn.o_proj",),
            "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            "down": ("mlp.down_proj",),
        },
        unread={**{f"{name}.weight": size for name, size in own.items()}, **key_norm} if shares else {},
    )


def _gemma3n(s: Architecture, layer: int) -> LayerSpec:
    common, hidden = _gemma(s, layer), s.hidden
    return LayerSpec(
        linears={
            **common.linears,
            "laurel.linear_left": (s.laurel_rank, hidden),
            "laurel.linear_right": (hidden, s.laurel_rank),
            "per_layer_input_gate": (s.ple, hidden),
            "per_layer_projection": (hidden, s.ple),
        },
        others={
            **common.others,
            "laurel.post_laurel_norm.weight": (hidden,),
            "post_per_layer_input_norm.weight": (hidden,),
            "altup.router_norm.weight": (hidden,),
            "altup.modality_router.weight": (s.streams, hidden),
            "altup.prediction_coefs.weight": (s.streams**2, s.streams),
            "altup.correction_coefs.weight": (s.streams, s.streams),
            "altup.correct_output_scale": (hidden,),
        },
        groups={
            **common.groups,
            "query": (*common.groups["query"], "laurel.linear_left"),
            "laurel": ("laurel.linear_right",),
            "ple_gate": ("per_layer_input_gate",),
            "ple_projection": ("per_layer_projection",),
        },
        unread=common.unread,
    )


_SPECS: dict[Family, Callable[[Architecture, int], LayerSpec]] = {"gemma3n": _gemma3n, "gemma": _gemma}
