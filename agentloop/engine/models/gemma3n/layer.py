"""One Gemma 3n decoder layer, forward and backward by hand.

    predict -> [q k v | laurel] -> attention -> o_proj -> merge -> feed-forward -> correct -> per-layer input -> advance

Only LoRA trains, so no other weight has a gradient. The forward pass fills `Activations` and drops what its level does
not keep; the backward pass runs the same stages again for what is missing, then goes back through them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.activations import Activations, Keys, LayerInput
from agentloop.engine.memory.plans import Keep
from agentloop.engine.models.feedforward import FeedForward
from agentloop.engine.models.gemma.activation import Geglu
from agentloop.engine.models.gemma3n.activation import SparseGeglu
from agentloop.engine.models.gemma3n.weights import Gemma3nLayerWeights
from agentloop.engine.models.self_attention import SelfAttention
from agentloop.engine.numerics.precision import Precision
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.altup import advance, advance_backward, correct, correct_backward, predict, predict_backward
from agentloop_kernels.ple import ple_gate, ple_gate_backward
from agentloop_kernels.residual import merge_attention, merge_attention_backward


@dataclass
class LayerActivations(Activations):
    """And what only this generation computes."""

    coefs: Tensor | None = None
    active: Tensor | None = None
    laurel_out: Tensor | None = None
    activated: Tensor | None = None
    gains: Tensor | None = None
    gate: Tensor | None = None
    projected: Tensor | None = None


class PredictedInput:
    """The active stream that AltUp predicts, normed."""

    def __init__(self, shape: Architecture, weights: Gemma3nLayerWeights) -> None:
        self.options = {
            "router": weights.router,
            "prediction": weights.prediction,
            "input_norm": weights.input_norm,
            "eps": shape.eps,
        }

    def forward(self, streams: Tensor, normed: Tensor) -> Tensor:
        """Norm the input as boundary.InputNorm says, and return the prediction's coefficients."""
        coefs, _, _ = predict(streams, **self.options, normed=normed)
        return coefs

    def add_gradient(self, dstreams: Tensor, dnormed: Tensor, streams: Tensor, saved: Tensor) -> None:
        share = torch.zeros_like(dstreams)
        predict_backward(share, streams, saved, dnormed, None, **self.options)
        dstreams += share


class Gemma3nLayer:
    """Computes with one layer's weights."""

    def __init__(self, shape: Architecture, weights: Gemma3nLayerWeights, workspace: Workspace, rope: Tensor) -> None:
        self.shape, self.weights, self.workspace = shape, weights, workspace
        self.attention = SelfAttention(shape, weights, workspace, rope)
        sparsity = shape.sparsity[weights.index]
        activation = SparseGeglu(sparsity, workspace.dtype) if sparsity else Geglu()
        self.feedforward = FeedForward(shape, weights, workspace, activation)
        self.input_norm = PredictedInput(shape, weights)
        self.index = weights.index
        self.precision = Precision.of(workspace.dtype)
        self.branch_eps = shape.eps * self.precision.branch**2
        self.scale = weights.scale.to(self.precision.streams) * self.precision.branch
        """[hidden]: correct_output_scale, which leads into the per-layer input's branch."""

    def activations(self, streams: Tensor) -> LayerActivations:
        return LayerActivations(streams)

    def forward(self, act: LayerActivations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> Tensor:
        """`act.streams` [n, tokens, hidden] -> the next layer's. `act` then holds what `keep` says; `chunk` tokens pass the
        feed-forward together."""
        w = self.weights
        self._compute(act, given, keys, keep, chunk)
        streams = advance(
            act.streams, act.coefs, act.activated, act.gains, act.projected, ple_norm=w.ple_norm, eps=self.branch_eps
        )
        act.drop(keep)
        return streams

    def _compute(self, act: LayerActivations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> None:
        """Everything up to `projected` that `act` lacks."""
        w, shape, matrix = self.weights, self.shape, self.workspace.matrix
        tokens = act.streams.shape[1]
        act.normed = w.query.new_input(tokens, self.workspace)
        normed = act.normed[:, : shape.hidden]
        act.coefs, act.active, _ = predict(act.streams, **self.input_norm.options, normed=normed)
        w.query.fill_tail(matrix(w.query), act.normed)
        if act.raw is None:
            act.raw = w.query.multiply(matrix(w.query), act.normed)
        if act.attention_out is None:
            self.attention.forward(act, given, keys)
        act.laurel_out = w.laurel.multiply(matrix(w.laurel), act.raw[:, -shape.laurel_rank :])
        act.feedforward_in = w.gate_up.new_input(tokens, self.workspace)
        act.merged, _ = merge_attention(
            act.active,
            act.attention_out,
            act.laurel_out,
            input_norm=w.input_norm,
            attention_norm=w.attention_norm,
            laurel_norm=w.laurel_norm,
            feedforward_norm=w.feedforward_norm,
            eps=shape.eps,
            normed=act.feedforward_in[:, : shape.hidden],
        )
        w.gate_up.fill_tail(matrix(w.gate_up), act.feedforward_in)
        if act.down_out is None:
            self.feedforward.forward(act, chunk, keep_gate_up=keep is Keep.ALL)
        act.activated, act.gains, first = correct(
            act.merged,
            act.down_out,
            act.active,
            router=w.router,
            correction=w.correction,
            feedforward_norm=w.post_feedforward_norm,
            scale=self.scale,
            eps=shape.eps,
            feedforward_eps=self.branch_eps,
            first=self.workspace.new_empty(tokens, shape.hidden),
        )
        act.gate = self.precision.restore(w.ple_gate.multiply(matrix(w.ple_gate), first))
        gated = self.precision.lower(ple_gate(act.gate, given.ple))
        act.projected = w.ple_projection.multiply(matrix(w.ple_projection), gated)

    def backward(
        self,
        dstreams: Tensor,
        act: LayerActivations,
        given: LayerInput,
        keys: Keys,
        dkeys: Keys,
        chunk: int,
        *,
        last: bool,
    ) -> None:
        """Add the layer's LoRA gradients; `dstreams` [n, tokens, hidden] becomes the gradient of `act.streams`, in place.

        `dkeys` holds the gradients of K and V that other layers left, and takes this one's. `last`: nothing below has a
        gradient, so `dstreams` is not needed any more.
        """
        w, shape, matrix = self.weights, self.shape, self.workspace.matrix
        self._compute(act, given, keys, Keep.STREAMS, chunk)
        dprojected = advance_backward(
            dstreams,
            act.projected,
            ple_norm=w.ple_norm,
            eps=self.branch_eps,
            dprojected=torch.empty_like(act.projected),
        )
        dgated = w.ple_projection.multiply_left(matrix(w.ple_projection), dprojected)
        # Scaled as `gated` is: what gate's scale takes, that of its input gives back.
        dgate = ple_gate_backward(dgated, act.gate, given.ple, out=dgated)
        dfirst = w.ple_gate.multiply_left(matrix(w.ple_gate), dgate)
        ddown = w.down.new_output(dfirst.shape[0], dfirst)
        dactivated, _ = correct_backward(
            dstreams,
            dfirst,
            act.down_out,
            act.active,
            act.activated,
            act.gains,
            router=w.router,
            correction=w.correction,
            feedforward_norm=w.post_feedforward_norm,
            scale=self.scale,
            eps=shape.eps,
            feedforward_eps=self.branch_eps,
            dactivated=dfirst if dfirst.dtype == dstreams.dtype else None,
            dfeedforward=ddown[:, : shape.hidden],
        )
        act.activated = act.projected = act.gate = act.down_out = None
        dnormed = self.feedforward.backward(ddown, act, chunk)
        dattention = w.output.new_output(dfirst.shape[0], dfirst)
        dsum, _, dlaurel = merge_attention_backward(
            dactivated,
            dnormed,
            act.merged,
            act.attention_out,
            act.laurel_out,
            attention_norm=w.attention_norm,
            laurel_norm=w.laurel_norm,
            feedforward_norm=w.feedforward_norm,
            eps=shape.eps,
            dsum=dactivated,
            dattention=dattention[:, : shape.hidden],
            dlaurel=dnormed,
        )
        act.merged = act.attention_out = act.laurel_out = None
        draw = w.query.new_output(dfirst.shape[0], dfirst)
        left = draw[:, w.query.outputs - shape.laurel_rank : w.query.outputs]
        if last:
            left.zero_()
        else:
            w.laurel.multiply_left(matrix(w.laurel), dlaurel, out=left)
        self.attention.backward(dattention, act, given, keys, dkeys, draw)
        dinput = w.query.backward(matrix(w.query), draw, act.normed, input_gradient=not last)
        if not last:
            predict_backward(dstreams, act.streams, act.coefs, dinput, dsum, **self.input_norm.options)
