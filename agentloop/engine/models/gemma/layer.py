"""One decoder layer of Gemma 1, 2 or 3, forward and backward by hand.

    norm -> [q k v] -> attention -> o_proj -> (norm,) add, norm -> feed-forward -> (norm,) add

Only LoRA trains, so no other weight has a gradient. The forward pass fills `Activations` and drops what its level does
not keep; the backward pass runs the same stages again for what is missing, then goes back through them.
"""

from __future__ import annotations

from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.activations import Activations, Keys, LayerInput
from agentloop.engine.memory.plans import Keep
from agentloop.engine.models.feedforward import FeedForward
from agentloop.engine.models.gemma.activation import Geglu
from agentloop.engine.models.gemma.weights import GemmaLayerWeights
from agentloop.engine.models.self_attention import SelfAttention
from agentloop.engine.numerics.precision import Precision
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.add_norm import add_norm, add_norm_backward
from agentloop_kernels.norm import rms_norm, rms_norm_backward


class NormedInput:
    def __init__(self, shape: Architecture, weights: GemmaLayerWeights) -> None:
        self.norm, self.eps = weights.input_norm, shape.eps

    def forward(self, streams: Tensor, normed: Tensor) -> None:
        """Norm the input as boundary.InputNorm says."""
        rms_norm(streams[0], self.norm, self.eps, out=normed)

    def add_gradient(self, dstreams: Tensor, dnormed: Tensor, streams: Tensor, saved: None) -> None:
        rms_norm_backward(dnormed, streams[0], self.norm, self.eps, residual=dstreams[0], out=dstreams[0])


class GemmaLayer:
    """Computes with one layer's weights."""

    def __init__(self, shape: Architecture, weights: GemmaLayerWeights, workspace: Workspace, rope: Tensor) -> None:
        self.shape, self.weights, self.workspace = shape, weights, workspace
        self.attention = SelfAttention(shape, weights, workspace, rope)
        self.feedforward = FeedForward(shape, weights, workspace, Geglu())
        self.input_norm = NormedInput(shape, weights)
        self.index = weights.index
        self.branch = Precision.of(workspace.dtype).branch

    def activations(self, streams: Tensor) -> Activations:
        return Activations(streams)

    def forward(self, act: Activations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> Tensor:
        """`act.streams` [1, tokens, hidden] -> the next layer's. `act` then holds what `keep` says; `chunk` tokens pass the
        feed-forward together."""
        self._compute(act, given, keys, keep, chunk)
        total, _ = add_norm(
            act.merged,
            act.down_out,
            norm=self.weights.post_feedforward_norm,
            next_norm=None,
            eps=self.shape.eps,
            y_scale=self.branch,
            total=act.merged,
        )
        act.drop(keep)
        return total[None]

    def _compute(self, act: Activations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> None:
        """Everything up to `down_out` that `act` lacks."""
        w, shape, matrix = self.weights, self.shape, self.workspace.matrix
        tokens = act.streams.shape[1]
        act.normed = w.query.new_input(tokens, self.workspace)
        self.input_norm.forward(act.streams, act.normed[:, : shape.hidden])
        w.query.fill_tail(matrix(w.query), act.normed)
        if act.raw is None:
            act.raw = w.query.multiply(matrix(w.query), act.normed)
        if act.attention_out is None:
            self.attention.forward(act, given, keys)
        act.feedforward_in = w.gate_up.new_input(tokens, self.workspace)
        act.merged, _ = add_norm(
            act.streams[0],
            act.attention_out,
            norm=w.attention_norm,
            next_norm=w.feedforward_norm,
            eps=shape.eps,
            y_scale=self.attention.branch,
            normed=act.feedforward_in[:, : shape.hidden],
        )
        w.gate_up.fill_tail(matrix(w.gate_up), act.feedforward_in)
        if act.down_out is None:
            self.feedforward.forward(act, chunk, keep_gate_up=keep is Keep.ALL)

    def backward(
        self, dstreams: Tensor, act: Activations, given: LayerInput, keys: Keys, dkeys: Keys, chunk: int, *, last: bool
    ) -> None:
        """Add the layer's LoRA gradients; `dstreams` [1, tokens, hidden] becomes the gradient of `act.streams`, in place.

        `dkeys` takes the gradients of the layer's K and V. `last`: nothing below has a gradient, so `dstreams` is not
        needed any more.
        """
        w, shape, matrix = self.weights, self.shape, self.workspace.matrix
        self._compute(act, given, keys, Keep.STREAMS, chunk)
        tokens, gradient = act.streams.shape[1], dstreams[0]
        ddown = w.down.new_output(tokens, act.normed)
        add_norm_backward(
            gradient,
            None,
            None,
            act.down_out,
            norm=w.post_feedforward_norm,
            next_norm=None,
            eps=shape.eps,
            y_scale=self.branch,
            dy=ddown[:, : shape.hidden],
        )
        act.down_out = None
        dnormed = self.feedforward.backward(ddown, act, chunk)
        dattention = w.output.new_output(tokens, dnormed)
        add_norm_backward(
            gradient,
            dnormed,
            act.merged,
            act.attention_out,
            norm=w.attention_norm,
            next_norm=w.feedforward_norm,
            eps=shape.eps,
            y_scale=self.attention.branch,
            dsum=gradient,
            dy=dattention[:, : shape.hidden],
        )
        act.merged = act.attention_out = None
        draw = w.query.new_output(tokens, dnormed)
        self.attention.backward(dattention, act, given, keys, dkeys, draw)
        dinput = w.query.backward(matrix(w.query), draw, act.normed, input_gradient=not last)
        if not last:
            self.input_norm.add_gradient(dstreams, dinput, act.streams, None)
