"""Attention from the raw q, k, v to o_proj's output, and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.activations import Activations, Keys, LayerInput
from agentloop.engine.models.weights import LayerWeights
from agentloop.engine.numerics.precision import Precision
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.attention import attention, attention_backward
from agentloop_kernels.rope import qkv_rope, qkv_rope_backward


class SelfAttention:
    def __init__(self, shape: Architecture, weights: LayerWeights, workspace: Workspace, rope: Tensor) -> None:
        self.shape, self.weights, self.workspace, self.rope = shape, weights, workspace, rope
        self.source = shape.kv_source(weights.index)
        self.own_keys = weights.index < shape.boundary
        self.query_width = shape.heads * shape.head_dim
        self.width = self.query_width + (2 * shape.kv_heads * shape.head_dim if self.own_keys else 0)
        """Columns of q (and k, v) in what is raw; what follows them is not attention's."""
        # A v that is not normed can outgrow fp16 with o_proj (numerics/precision.py).
        self.branch = 1.0 if shape.norm_values else Precision.of(workspace.dtype).branch
        """What o_proj's input, and so its output, is multiplied by."""
        self.heads: dict[str, Any] = {
            "heads": shape.heads,
            "kv_heads": shape.kv_heads if self.own_keys else 0,
            "query_norm": weights.query_norm,
            "key_norm": weights.key_norm if self.own_keys else None,
            "eps": shape.eps,
            "norm_values": shape.norm_values,
        }
        self.scores: dict[str, Any] = {"scale": shape.query_scale, "softcap": shape.attention_softcap}

    def forward(self, act: Activations, given: LayerInput, keys: Keys) -> None:
        """`act.raw` -> `act.attended`, `lse` and `attention_out`; the layer's own K and V are left in `keys`."""
        w, shape = self.weights, self.shape
        matrix = self.workspace.matrix(w.output)
        self._queries(act, given, keys)
        act.attended = w.output.new_input(act.query.shape[0], act.query)
        out = act.attended[:, : self.query_width].unflatten(1, (shape.heads, shape.head_dim))
        _, act.lse = attention(act.query, *keys[self.source], given.plan, **self.scores, out=out)
        if self.branch != 1:
            act.attended[:, : self.query_width] *= self.branch
        w.output.fill_tail(matrix, act.attended)
        act.attention_out = w.output.multiply(matrix, act.attended)

    def backward(
        self, dattention: Tensor, act: Activations, given: LayerInput, keys: Keys, dkeys: Keys, draw: Tensor
    ) -> None:
        """Gradient of o_proj's output [tokens, hidden + rank] -> that of the raw q (k, v), in `draw`'s first columns.

        `dkeys` holds the gradients of K and V that other layers left, and takes this one's.
        """
        w, shape = self.weights, self.shape
        dattended = w.output.backward(self.workspace.matrix(w.output), dattention, act.attended)
        if act.query is None:
            self._queries(act, given, keys)
        heads = (shape.heads, shape.head_dim)
        attended = act.attended[:, : self.query_width]
        if self.branch != 1:
            dattended *= self.branch
            attended = attended / self.branch
        key, value = keys[self.source]
        shared = self.source in dkeys
        dkey, dvalue = dkeys.get(self.source, (None, None))
        dquery, dkey, dvalue = attention_backward(
            dattended.unflatten(1, heads),
            act.query,
            key,
            value,
            attended.unflatten(1, heads),
            act.lse,
            given.plan,
            **self.scores,
            dkey=dkey,
            dvalue=dvalue,
            accumulate=shared,
        )
        qkv_rope_backward(
            dquery,
            dkey if self.own_keys else None,
            dvalue if self.own_keys else None,
            act.raw[:, : self.width],
            self.rope,
            given.positions,
            **self.heads,
            out=draw[:, : self.width],
        )

    def _queries(self, act: Activations, given: LayerInput, keys: Keys) -> None:
        act.query, key, value = qkv_rope(
            act.raw[:, : self.width],
            self.rope,
            given.positions,
            **self.heads,
        )
        if self.own_keys:
            keys[self.weights.index] = key, value
