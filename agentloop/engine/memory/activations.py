"""What a layer reads, and what it holds between its forward and its backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentloop.engine.memory.plans import HELD, Keep
from agentloop_kernels.attention import AttentionPlan

Keys = dict[int, tuple[Tensor, Tensor]]
"""Layer -> its K and V [tokens, kv_heads, head_dim], or their fp32 gradients."""


@dataclass(frozen=True)
class LayerInput:
    """Inputs that a layer reads besides its streams."""

    plan: AttentionPlan
    positions: Tensor
    """[tokens] int32."""
    ple: Tensor
    """[tokens, ple]: its per-layer input; of width 0 where the model has none."""


@dataclass
class Activations:
    """A layer's intermediate results [tokens, …]; None where not computed yet or dropped."""

    streams: Tensor
    """[n, tokens, hidden]: what enters the layer."""
    normed: Tensor | None = None
    """[tokens, hidden + rank]: input of q, k, v and what else reads it, with its LoRA tail."""
    raw: Tensor | None = None
    """[tokens, q (+ k + v) (+ LAuReL's rank)], before norms and RoPE."""
    query: Tensor | None = None
    attended: Tensor | None = None
    """[tokens, heads * head_dim + rank]."""
    lse: Tensor | None = None
    attention_out: Tensor | None = None
    merged: Tensor | None = None
    feedforward_in: Tensor | None = None
    """[tokens, hidden + rank]."""
    gate_up: Tensor | None = None
    """[tokens, 2 inter + rank]."""
    statistics: Tensor | None = None
    """[tokens, 2] fp32, of a sparse layer."""
    down_tail: Tensor | None = None
    """[tokens, rank]: the LoRA tail of down_proj's input."""
    down_out: Tensor | None = None

    def drop(self, keep: Keep) -> None:
        """Forget what `keep` does not hold on to."""
        held = {name for level, names in HELD.items() if level <= keep for name in names}
        for name in self.__dataclass_fields__:
            if name not in held:
                setattr(self, name, None)
