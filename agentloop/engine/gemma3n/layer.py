"""One Gemma 3n decoder layer, forward and backward by hand.

    predict -> [q k v | laurel] -> attention -> o_proj -> merge -> feed-forward -> correct -> per-layer input -> advance

Only LoRA trains, so no other weight has a gradient. The forward pass fills `Activations` and drops what its level does
not keep; the backward pass runs the same stages again for what is missing, then goes back through them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from agentloop_kernels.altup import advance, advance_backward, correct, correct_backward, predict, predict_backward
from agentloop_kernels.attention import AttentionPlan, attention, attention_backward
from agentloop_kernels.ple import ple_gate, ple_gate_backward
from agentloop_kernels.residual import merge_attention, merge_attention_backward
from agentloop_kernels.rope import qkv_rope, qkv_rope_backward
from torch import Tensor

from agentloop.engine.architecture import Architecture
from agentloop.engine.feedforward import FeedForward
from agentloop.engine.memory import Keep
from agentloop.engine.precision import Precision
from agentloop.engine.projection import Workspace
from agentloop.engine.weights import LayerWeights

Keys = dict[int, tuple[Tensor, Tensor]]
"""Layer -> its K and V [tokens, kv_heads, head_dim], or their fp32 gradients."""


@dataclass(frozen=True)
class LayerInput:
    """What a layer reads besides its streams."""

    plan: AttentionPlan
    positions: Tensor
    """[tokens] int32."""
    ple: Tensor
    """[tokens, ple]: its per-layer input."""


@dataclass
class Activations:
    """A layer's intermediate results [tokens, …]; None where not computed yet or dropped."""

    streams: Tensor
    """[n, tokens, hidden]: what enters the layer."""
    coefs: Tensor | None = None
    active: Tensor | None = None
    normed: Tensor | None = None
    """[tokens, hidden + rank]: input of q, k, v and LAuReL, with its LoRA tail."""
    raw: Tensor | None = None
    """[tokens, q (+ k + v) + laurel rank], before norms and RoPE."""
    query: Tensor | None = None
    attended: Tensor | None = None
    """[tokens, heads * head_dim + rank]."""
    lse: Tensor | None = None
    attention_out: Tensor | None = None
    laurel_out: Tensor | None = None
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
    activated: Tensor | None = None
    gains: Tensor | None = None
    gate: Tensor | None = None
    projected: Tensor | None = None

    def drop(self, keep: Keep) -> None:
        """Forget what `keep` does not hold on to."""
        held = {"streams", "statistics"}
        if keep >= Keep.DOWN:
            held |= {"down_tail", "down_out"}
        if keep >= Keep.ATTENTION:
            held |= {"raw", "attended", "lse", "attention_out"}
        if keep >= Keep.ALL:
            held |= {"gate_up"}
        for name in self.__dataclass_fields__:
            if name not in held:
                setattr(self, name, None)


class Layer:
    """Computes with one layer's weights."""

    def __init__(self, shape: Architecture, weights: LayerWeights, workspace: Workspace, rope: Tensor) -> None:
        self.shape, self.weights, self.workspace, self.rope = shape, weights, workspace, rope
        self.feedforward = FeedForward(shape, weights, workspace)
        self.index = weights.index
        self.source = shape.kv_source(self.index)
        self.own_keys = weights.key_norm is not None and weights.key_value is None
        self.query_width = shape.heads * shape.head_dim
        self.precision = Precision.of(workspace.dtype)
        self.branch_eps = shape.eps * self.precision.branch**2
        self.scale = weights.scale.to(self.precision.streams) * self.precision.branch
        """[hidden]: correct_output_scale, which leads into the per-layer input's branch."""

    def forward(self, act: Activations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> Tensor:
        """`act.streams` [n, tokens, hidden] -> the next layer's. `act` then holds what `keep` says; `chunk` tokens pass the
        feed-forward together."""
        w = self.weights
        self._compute(act, given, keys, keep, chunk)
        streams = advance(
            act.streams, act.coefs, act.activated, act.gains, act.projected, ple_norm=w.ple_norm, eps=self.branch_eps
        )
        act.drop(keep)
        return streams

    def _compute(self, act: Activations, given: LayerInput, keys: Keys, keep: Keep, chunk: int) -> None:
        """Everything up to `projected` that `act` lacks."""
        w, shape, matrix = self.weights, self.shape, self.workspace.matrix
        tokens = act.streams.shape[1]
        act.normed = w.query.new_input(tokens, self.workspace)
        act.coefs, act.active, _ = predict(
            act.streams,
            router=w.router,
            prediction=w.prediction,
            input_norm=w.input_norm,
            eps=shape.eps,
            normed=act.normed[:, : shape.hidden],
        )
        w.query.fill_tail(matrix(w.query), act.normed)
        if act.raw is None:
            act.raw = w.query.multiply(matrix(w.query), act.normed)
        if act.attention_out is None:
            self._queries(act, given, keys)
            act.attended = w.output.new_input(act.query.shape[0], act.query)
            out = act.attended[:, : self.query_width].unflatten(1, (shape.heads, shape.head_dim))
            _, act.lse = attention(act.query, *keys[self.source], given.plan, out=out)
            w.output.fill_tail(matrix(w.output), act.attended)
            act.attention_out = w.output.multiply(matrix(w.output), act.attended)
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

    def _queries(self, act: Activations, given: LayerInput, keys: Keys) -> None:
        w, shape = self.weights, self.shape
        act.query, key, value = qkv_rope(
            act.raw[:, : -shape.laurel_rank],
            self.rope,
            given.positions,
            heads=shape.heads,
            kv_heads=shape.kv_heads if self.own_keys else 0,
            query_norm=w.query_norm,
            key_norm=w.key_norm if self.own_keys else None,
            eps=shape.eps,
        )
        if self.own_keys:
            keys[self.index] = key, value

    def backward(
        self, dstreams: Tensor, act: Activations, given: LayerInput, keys: Keys, dkeys: Keys, chunk: int, *, last: bool
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
        dattended = w.output.backward(matrix(w.output), dattention, act.attended)
        self._attention_backward(dattended, act, given, keys, dkeys, draw)
        dinput = w.query.backward(matrix(w.query), draw, act.normed, input_gradient=not last)
        if not last:
            predict_backward(
                dstreams,
                act.streams,
                act.coefs,
                dinput,
                dsum,
                router=w.router,
                prediction=w.prediction,
                input_norm=w.input_norm,
                eps=shape.eps,
            )

    def _attention_backward(
        self, dattended: Tensor, act: Activations, given: LayerInput, keys: Keys, dkeys: Keys, draw: Tensor
    ) -> None:
        """dO -> gradient of the raw q (k, v), written into `draw`."""
        w, shape = self.weights, self.shape
        if act.query is None:
            self._queries(act, given, keys)
        heads = (shape.heads, shape.head_dim)
        key, value = keys[self.source]
        shared = self.source in dkeys
        dkey, dvalue = dkeys.get(self.source, (None, None))
        dquery, dkey, dvalue = attention_backward(
            dattended.unflatten(1, heads),
            act.query,
            key,
            value,
            act.attended[:, : self.query_width].unflatten(1, heads),
            act.lse,
            given.plan,
            dkey=dkey,
            dvalue=dvalue,
            accumulate=shared,
        )
        raw_width = self.weights.query.outputs - shape.laurel_rank
        qkv_rope_backward(
            dquery,
            dkey if self.own_keys else None,
            dvalue if self.own_keys else None,
            act.raw[:, :raw_width],
            self.rope,
            given.positions,
            heads=shape.heads,
            kv_heads=shape.kv_heads if self.own_keys else 0,
            query_norm=w.query_norm,
            key_norm=w.key_norm if self.own_keys else None,
            eps=shape.eps,
            out=draw[:, :raw_width],
        )


class BoundaryKeys:
    """The boundary layer's K and V, computed for all tokens; the layer itself then runs on the rows that go on."""

    def __init__(self, shape: Architecture, weights: LayerWeights, workspace: Workspace, rope: Tensor) -> None:
        self.shape, self.weights, self.workspace, self.rope = shape, weights, workspace, rope

    def forward(self, streams: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[n, tokens, hidden] -> K, V [tokens, kv_heads, head_dim]."""
        _, normed = self._normed(streams)
        return self._rotate(self._raw(normed), positions)

    def backward(
        self, dkeys: tuple[Tensor, Tensor], streams: Tensor, positions: Tensor, dstreams: Tensor, *, last: bool
    ) -> None:
        """Add the gradient through K and V to `dstreams` [n, tokens, hidden] (unless `last`) and to LoRA's."""
        w, shape = self.weights, self.shape
        coefs, normed = self._normed(streams)
        draw = w.key_value.new_output(normed.shape[0], normed)
        qkv_rope_backward(
            None,
            *dkeys,
            self._raw(normed),
            self.rope,
            positions,
            heads=0,
            kv_heads=shape.kv_heads,
            query_norm=None,
            key_norm=w.key_norm,
            eps=shape.eps,
            out=draw[:, : w.key_value.outputs],
        )
        dnormed = w.key_value.backward(self.workspace.matrix(w.key_value), draw, normed, input_gradient=not last)
        if not last:
            share = torch.zeros_like(dstreams)
            predict_backward(
                share,
                streams,
                coefs,
                dnormed,
                None,
                router=w.router,
                prediction=w.prediction,
                input_norm=w.input_norm,
                eps=shape.eps,
            )
            dstreams += share

    def _normed(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        w, shape = self.weights, self.shape
        normed = w.key_value.new_input(streams.shape[1], self.workspace)
        coefs, _, _ = predict(
            streams,
            router=w.router,
            prediction=w.prediction,
            input_norm=w.input_norm,
            eps=shape.eps,
            normed=normed[:, : shape.hidden],
        )
        w.key_value.fill_tail(self.workspace.matrix(w.key_value), normed)
        return coefs, normed

    def _raw(self, normed: Tensor) -> Tensor:
        return self.weights.key_value.multiply(self.workspace.matrix(self.weights.key_value), normed)

    def _rotate(self, raw: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        w, shape = self.weights, self.shape
        _, key, value = qkv_rope(
            raw,
            self.rope,
            positions,
            heads=0,
            kv_heads=shape.kv_heads,
            query_norm=None,
            key_norm=w.key_norm,
            eps=shape.eps,
        )
        return key, value
