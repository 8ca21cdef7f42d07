"""The boundary layer's K and V, computed for all tokens; the layer itself then runs on the rows that go on."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.models.weights import LayerWeights
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.rope import qkv_rope, qkv_rope_backward


class InputNorm(Protocol):
    """The norm over what enters a layer."""

    def forward(self, streams: Tensor, normed: Tensor) -> Any:
        """streams [n, tokens, hidden] -> `normed` [tokens, hidden], filled; returns what `add_gradient` wants back."""

    def add_gradient(self, dstreams: Tensor, dnormed: Tensor, streams: Tensor, saved: Any) -> None:
        """Add the streams' gradient [n, tokens, hidden], given that of `normed`."""


class BoundaryKeys:
    def __init__(
        self, shape: Architecture, weights: LayerWeights, workspace: Workspace, rope: Tensor, input_norm: InputNorm
    ) -> None:
        self.shape, self.weights, self.workspace, self.rope = shape, weights, workspace, rope
        self.input_norm = input_norm
        self.heads = {
            "heads": 0,
            "kv_heads": shape.kv_heads,
            "query_norm": None,
            "key_norm": weights.key_norm,
            "eps": shape.eps,
            "norm_values": shape.norm_values,
        }

    def forward(self, streams: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[n, tokens, hidden] -> K, V [tokens, kv_heads, head_dim]."""
        _, normed = self._normed(streams)
        _, key, value = qkv_rope(self._raw(normed), self.rope, positions, **self.heads)
        return key, value

    def backward(
        self, dkeys: tuple[Tensor, Tensor], streams: Tensor, positions: Tensor, dstreams: Tensor, *, last: bool
    ) -> None:
        """Add the gradient through K and V to `dstreams` [n, tokens, hidden] (unless `last`) and to LoRA's."""
        w = self.weights
        saved, normed = self._normed(streams)
        draw = w.key_value.new_output(normed.shape[0], normed)
        qkv_rope_backward(
            None,
            *dkeys,
            self._raw(normed),
            self.rope,
            positions,
            **self.heads,
            out=draw[:, : w.key_value.outputs],
        )
        dnormed = w.key_value.backward(self.workspace.matrix(w.key_value), draw, normed, input_gradient=not last)
        if not last:
            self.input_norm.add_gradient(dstreams, dnormed, streams, saved)

    def _normed(self, streams: Tensor) -> tuple[Any, Tensor]:
        w = self.weights
        normed = w.key_value.new_input(streams.shape[1], self.workspace)
        saved = self.input_norm.forward(streams, normed[:, : self.shape.hidden])
        w.key_value.fill_tail(self.workspace.matrix(w.key_value), normed)
        return saved, normed

    def _raw(self, normed: Tensor) -> Tensor:
        return self.weights.key_value.multiply(self.workspace.matrix(self.weights.key_value), normed)
