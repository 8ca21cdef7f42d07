"""Attention of one new token of each sequence, over the cache. Everything else of a layer is as in training."""

from __future__ import annotations

from typing import cast

from agentloop.engine.decoding.cache import Slots
from agentloop.engine.memory.activations import Activations, Keys, LayerInput
from agentloop.engine.models.self_attention import SelfAttention
from agentloop_kernels.decode_attention import decode_attention
from agentloop_kernels.rope import qkv_rope


class CachedAttention(SelfAttention):
    """Reads and writes the cache where its base class reads and writes the keys of a packed batch."""

    def forward(self, act: Activations, given: LayerInput, keys: Keys) -> None:
        """`act.raw` -> `act.attention_out`. `keys` are the cache's layers, `given.plan` this layer's Slots."""
        w, shape, slots = self.weights, self.shape, cast(Slots, given.plan)
        assert act.raw is not None
        matrix = self.workspace.matrix(w.output)
        act.query, key, value = qkv_rope(act.raw[:, : self.width], self.rope, given.positions, **self.heads)
        if self.own_keys:
            slots.put(keys[w.index], key, value)
        act.attended = w.output.new_input(act.query.shape[0], act.query)
        out = act.attended[:, : self.query_width].unflatten(1, (shape.heads, shape.head_dim))
        key, value = (cells[:, :, : slots.span] for cells in keys[self.source])
        decode_attention(act.query, key, value, slots.last, **self.scores, seen=slots.seen, out=out)
        if self.branch != 1:
            act.attended[:, : self.query_width] *= self.branch
        w.output.fill_tail(matrix, act.attended)
        act.attention_out = w.output.multiply(matrix, act.attended)
