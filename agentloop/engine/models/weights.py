"""A checkpoint's language model as the engine holds it: norms as they are, layer linears in NF4.

Of a layer's linears those whose width is a multiple of 64 are packed (QLoRA's double-quantised NF4); all else stays as it is
stored. What every generation of Gemma has is here, the rest beside its layers (gemma3n/weights.py, gemma/weights.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import PackedWeights
from agentloop.engine.lora.projection import ProjectionGroup
from agentloop.engine.numerics.precision import wide_dtype
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.rope import rope_table


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Norm weights [hidden] (q, k: [head_dim]), groups of linears that share an input."""

    index: int
    input_norm: Tensor
    attention_norm: Tensor | None
    """Of o_proj's output."""
    feedforward_norm: Tensor
    """Of the feed-forward's input."""
    post_feedforward_norm: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    query: ProjectionGroup
    """[q | k | v] and what else reads the same input; without k and v where they are apart or another layer's."""
    key_value: ProjectionGroup | None
    """[k | v] of the boundary layer, which all tokens need while q is needed by supervised ones only."""
    output: ProjectionGroup
    gate_up: ProjectionGroup
    down: ProjectionGroup

    WIDE: ClassVar[tuple[str, ...]] = ()
    """Tensors that are in fp32 whatever the engine computes in."""

    @property
    def groups(self) -> tuple[ProjectionGroup, ...]:
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, ProjectionGroup))


@dataclass(frozen=True)
class ModelWeights:
    layers: tuple[LayerWeights, ...]
    embedding: Tensor
    """[vocab, hidden]."""
    head: Tensor
    """[vocab, hidden]; the embedding itself where they are tied."""
    final_norm: Tensor
    rope: dict[str, Tensor]
    """Layer type -> [positions, head_dim] fp32."""

    WIDE: ClassVar[tuple[str, ...]] = ()
    """As in LayerWeights."""

    def frozen(self) -> Iterator[Any]:
        """Yield every tensor, NF4 linear and table: what copies of a model share."""
        for owner in (self, *self.layers):
            for field in fields(owner):
                value = getattr(owner, field.name)
                if isinstance(value, ProjectionGroup):
                    yield from (weight for _, weight in value.parts)
                elif isinstance(value, dict):
                    yield from value.values()
                elif value is not None and not isinstance(value, tuple):
                    yield value

    @property
    def device_bytes(self) -> int:
        """Everything but what stays in host memory."""
        linears = [
            weight.nbytes
            for layer in self.layers
            for group in layer.groups
            for _, weight in group.parts
            if not isinstance(weight, Tensor) or weight.device == self.embedding.device
        ]
        owners = (self, *self.layers)
        tensors = [
            value
            for owner in owners
            for field in fields(owner)
            if isinstance(value := getattr(owner, field.name), Tensor)
        ]
        once = {id(tensor): tensor.nbytes for tensor in (*tensors, *self.rope.values())}
        return sum(linears) + sum(once.values())


class Reader:
    """Reads a checkpoint's tensors onto `device`, each once. `packed` gives the NF4 linears (None: all in `dtype`).

    `offload_linears` leaves those that are not in NF4 in host memory.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        packed: PackedWeights | None,
        *,
        device: torch.device,
        dtype: torch.dtype,
        offload_linears: bool = False,
    ) -> None:
        self.checkpoint, self._packed, self.device, self.dtype = checkpoint, packed, device, dtype
        self._linears_device = torch.device("cpu") if offload_linears else device
        self.wide = wide_dtype(dtype)

    def dense(self, name: str) -> Tensor:
        return self.checkpoint.tensor(name).to(self.device, self.dtype)

    def groups(self, shape: Architecture, index: int) -> dict[str, ProjectionGroup | None]:
        """Return the linears of layer `index`, as LayerWeights calls them."""
        groups: dict[str, ProjectionGroup | None] = {"key_value": None}
        for kind, names in shape.layer_specs[index].groups.items():
            linears = [f"layers.{index}.{name}" for name in names]
            groups[kind] = ProjectionGroup(kind, [(name, self._linear(name)) for name in linears])
        return groups

    def head(self, embedding: Tensor) -> Tensor:
        own = self.checkpoint.head()
        return embedding if own is None else own.to(self.device, self.dtype)

    def rope(self, shape: Architecture, positions: int) -> dict[str, Tensor]:
        """Tables of `positions` rows for both types of layer."""
        tables = {}
        for kind, theta in shape.rope_theta.items():
            inverse = frequencies(theta, shape.head_dim) / shape.rope_factor[kind]
            tables[kind] = rope_table(inverse.to(self.device, self.wide), positions)
        return tables

    def _linear(self, name: str):
        packed = self._packed and name in self._packed
        if packed:
            return self._packed.linear(name)
        return self.checkpoint.tensor(f"{name}.weight").to(self._linears_device, self.dtype)


def frequencies(theta: float, head_dim: int) -> Tensor:
    """Inverse frequencies of the rotary embedding, [head_dim / 2], in fp32 as transformers computes them."""
    return 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
