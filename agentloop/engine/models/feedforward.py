"""The feed-forward of a layer, in chunks of tokens: gate and up, the family's activation, down.

gate and up are 64 KB a token in Gemma 3n E4B; a chunk bounds how many tokens hold them at once.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.activations import Activations
from agentloop.engine.models.weights import LayerWeights
from agentloop.engine.numerics.precision import Precision, wide_dtype
from agentloop.model_directory.architecture import Architecture


class GatedActivation(Protocol):
    """The product of gate and up as a family computes it."""

    statistics: int
    """Columns of `Activations.statistics`, in which it leaves what its backward pass wants back; 0: nothing."""

    def forward(self, gate_up: Tensor, out: Tensor, statistics: Tensor | None) -> None:
        """Compute `out` [tokens, inter] from gate and up [tokens, 2 inter]."""

    def backward(self, dhidden: Tensor, gate_up: Tensor, statistics: Tensor | None) -> None:
        """Turn gate and up into their gradients and `dhidden` [tokens, inter] into what `forward` gave, in place."""


class FeedForward:
    def __init__(
        self, shape: Architecture, weights: LayerWeights, workspace: Workspace, activation: GatedActivation
    ) -> None:
        self.weights, self.workspace, self.activation = weights, workspace, activation
        self.inter = shape.intermediate[weights.index]
        self.precision = Precision.of(workspace.dtype)

    def forward(self, act: Activations, chunk: int, *, keep_gate_up: bool) -> None:
        """`act.feedforward_in` -> `act.down_out`, with `down_tail` and a sparse layer's `statistics`.

        `gate_up` is left too where one chunk holds all tokens, or where `keep_gate_up` asks for it.
        """
        w, x = self.weights, act.feedforward_in
        gate_up_matrix, down_matrix = self.workspace.matrix(w.gate_up), self.workspace.matrix(w.down)
        tokens = x.shape[0]
        act.down_out = x.new_empty(tokens, w.down.outputs)
        act.down_tail = x.new_empty(tokens, w.down.rank)
        if self.activation.statistics and act.statistics is None:
            act.statistics = x.new_empty(tokens, self.activation.statistics, dtype=wide_dtype(x.dtype))
        whole = tokens <= chunk or keep_gate_up
        gate_up = w.gate_up.new_output(tokens if whole else chunk, x)
        hidden = w.down.new_input(min(tokens, chunk), x)
        for part in _chunks(tokens, chunk):
            size = part.stop - part.start
            products = gate_up[part] if whole else gate_up[:size]
            w.gate_up.multiply(gate_up_matrix, x[part], out=products[:, : w.gate_up.outputs])
            self._lower_up(products)
            inner = hidden[:size]
            self.activation.forward(
                products[:, : w.gate_up.outputs], inner[:, : self.inter], _rows(act.statistics, part)
            )
            w.down.fill_tail(down_matrix, inner)
            act.down_tail[part] = inner[:, self.inter :]
            w.down.multiply(down_matrix, inner, out=act.down_out[part])
        act.gate_up = gate_up if whole else None

    def backward(self, ddown: Tensor, act: Activations, chunk: int) -> Tensor:
        """ddown [tokens, hidden + rank], tail still to be filled -> gradient of the layer's normed input [tokens, hidden]."""
        w, x = self.weights, act.feedforward_in
        gate_up_matrix, down_matrix = self.workspace.matrix(w.gate_up), self.workspace.matrix(w.down)
        tokens = x.shape[0]
        dx = x.new_empty(tokens, w.gate_up.inputs)
        gate_up, kept = act.gate_up, act.gate_up is not None
        if not kept:
            gate_up = w.gate_up.new_output(min(tokens, chunk), x)
        inner = x.new_empty(min(tokens, chunk), self.inter)
        for part in _chunks(tokens, chunk):
            size = part.stop - part.start
            products = gate_up[part] if kept else gate_up[:size]
            pair = products[:, : w.gate_up.outputs]
            if not kept:
                w.gate_up.multiply(gate_up_matrix, x[part], out=pair)
                self._lower_up(products)
            w.down.fill_output_tail(down_matrix, ddown[part])
            dhidden = w.down.multiply_left(down_matrix, ddown[part], out=inner[:size])
            self.activation.backward(dhidden, pair, _rows(act.statistics, part))
            self._lower_up(products)
            w.down.accumulate(ddown[part], dhidden, act.down_tail[part])
            w.gate_up.backward(gate_up_matrix, products, x[part], out=dx[part])
        act.gate_up = act.feedforward_in = None
        return dx

    def _lower_up(self, products: Tensor) -> None:
        """Scale up, and with it the product with gate and down_proj's output; or the gradient that came through it."""
        if self.precision.scaled:
            products[:, self.inter : 2 * self.inter] *= self.precision.branch


def _chunks(tokens: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]


def _rows(statistics: Tensor | None, part: slice) -> Tensor | None:
    return None if statistics is None else statistics[part]
