"""Embedding, layers, head and the way back: the computation of one step, by hand from end to end.

embed -> layers -> (supervised rows) unembed -> head and loss with its gradient -> layers backwards. There is no autograd
graph; gradients are added to the flat LoRA buffer and nothing else has any. Nothing here waits for the device.
"""

from __future__ import annotations

from functools import cached_property

import torch
from agentloop_kernels.loss import Observed, linear_cross_entropy, linear_logprobs
from agentloop_kernels.magnitude import embed_streams, unembed_streams, unembed_streams_backward
from agentloop_kernels.ple import ple_inputs
from torch import Tensor

from agentloop.engine.architecture import Architecture
from agentloop.engine.context import StepContext
from agentloop.engine.layer import Activations, BoundaryKeys, Keys, Layer, LayerInput
from agentloop.engine.memory import Keep, StepPlan
from agentloop.engine.offload import HostStore
from agentloop.engine.precision import Precision
from agentloop.engine.projection import Workspace
from agentloop.engine.results import TokenResults
from agentloop.engine.weights import ModelWeights


class Network:
    def __init__(
        self,
        shape: Architecture,
        weights: ModelWeights,
        workspace: Workspace,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape, self.weights, self.workspace, self.device = shape, weights, workspace, device
        self.layers = [Layer(shape, w, workspace, weights.rope[shape.layer_types[w.index]]) for w in weights.layers]
        boundary = weights.layers[shape.boundary]
        self.boundary_keys = BoundaryKeys(shape, boundary, workspace, weights.rope[shape.layer_types[boundary.index]])
        self.precision = Precision.of(dtype)
        # Rounded to the weights' dtype, as transformers does.
        self._embedding_scale = float(torch.tensor(shape.hidden**0.5, dtype=dtype))
        self._host = HostStore(device)

    def gradients(self, context: StepContext, plan: StepPlan, scale: Tensor, *, observe: bool = False) -> TokenResults:
        """Add the gradient of the cross-entropies, each times `scale`, to LoRA's. `scale` [1, 1] or [supervised, 1].

        `observe` asks for entropy and top as well.
        """
        inputs = context.inputs
        observed = self._observed(inputs.labels) if observe else None
        streams, ple = self.embed(inputs.token_ids)
        keys: Keys = {}
        streams, kept, below = self.forward(streams, ple, context, keys, plan)
        if context.rows is None:
            streams = streams[:, inputs.supervised]
        losses, dstreams = self.head(streams, inputs.labels, scale, plan, observed)
        del streams
        if context.rows is None:
            dstreams = _scattered(dstreams, inputs.supervised, context.tokens)
        self.backward(dstreams, kept, below, ple, context, keys, plan)
        return _results(losses, observed)

    def results(self, context: StepContext, plan: StepPlan, *, observe: bool = False) -> TokenResults:
        """`gradients` without the gradients."""
        labels = context.inputs.labels
        observed = self._observed(labels) if observe else None
        hidden = self.hidden(context, plan)
        logprobs = linear_logprobs(
            hidden, self.weights.head, labels, self.shape.softcap, chunk_rows=plan.head_rows, observed=observed
        )
        return _results(logprobs.neg_(), observed)

    def logprobs(self, context: StepContext, plan: StepPlan) -> Tensor:
        """log p of every label, [supervised]."""
        return self.results(context, plan).losses.neg_()

    def logits(self, context: StepContext, plan: StepPlan) -> Tensor:
        """Soft-capped logits of the supervised rows, all at once: [supervised, vocab]."""
        logits = self.hidden(context, plan) @ self.weights.head.t()
        return logits.div_(self.shape.softcap).tanh_().mul_(self.shape.softcap)

    def hidden(self, context: StepContext, plan: StepPlan) -> Tensor:
        """The head's input, without anything kept: [supervised, hidden]."""
        streams, ple = self.embed(context.inputs.token_ids)
        streams, _, _ = self.forward(streams, ple, context, {}, plan, training=False)
        if context.rows is None:
            streams = streams[:, context.inputs.supervised]
        return self.unembed(streams)[0]

    def _observed(self, labels: Tensor) -> Observed:
        wide = torch.float64 if self.workspace.dtype == torch.float64 else torch.float32
        entropy = torch.empty(labels.shape, dtype=wide, device=labels.device)
        return Observed(entropy, torch.empty(labels.shape, dtype=torch.bool, device=labels.device))

    def embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """-> streams [n, tokens, hidden] and the per-layer inputs [tokens, layers * ple]."""
        w, shape = self.weights, self.shape
        first = w.embedding[token_ids].to(self.precision.compute) * self._embedding_scale
        in_table = torch.where(token_ids < shape.ple_vocab, token_ids, 0)
        projection = first @ w.ple_model_projection.t()
        ple = ple_inputs(
            projection,
            w.ple_table.rows(in_table),
            w.ple_projection_norm,
            scale=shape.hidden**-0.5,
            table_scale=shape.ple**0.5,
            eps=shape.eps,
            out=projection,
        )
        streams = first.new_empty(shape.streams, *first.shape, dtype=self.precision.streams)
        return embed_streams(first, torch.matmul(first, w.altup.transpose(1, 2)), out=streams), ple

    def forward(
        self, streams: Tensor, ple: Tensor, context: StepContext, keys: Keys, plan: StepPlan, *, training: bool = True
    ) -> tuple[Tensor, list[Activations], Tensor | None]:
        """All layers -> the last streams (of the rows that went on), what each layer kept, and the boundary's
        input where only some rows go on from there."""
        kept, below = [], None
        for layer in self.layers:
            if layer.index == self.shape.boundary:
                keys[layer.index] = self.boundary_keys.forward(streams, context.inputs.positions)
                below = None if context.rows is None else streams
                if context.rows is not None:
                    streams = streams[:, context.rows]
            act = Activations(streams)
            keep = plan.keep[layer.index] if training else Keep.STREAMS
            streams = layer.forward(act, self._given(layer.index, ple, context), keys, keep, plan.chunk)
            if layer.index not in self._sources:
                keys.pop(layer.index, None)
            if training:
                kept.append(act)
                if plan.offload:
                    self._host.leave(layer.index, act)
        return streams, kept, below

    def _given(self, index: int, ple: Tensor, context: StepContext) -> LayerInput:
        upper = index >= self.shape.boundary
        slot = ple[:, index * self.shape.ple : (index + 1) * self.shape.ple]
        if upper and context.rows is not None:
            slot = slot[context.rows]
        plans, positions = (
            (context.upper_plans, context.upper_positions) if upper else (context.plans, context.inputs.positions)
        )
        return LayerInput(plans[self.shape.layer_types[index]], positions, slot)

    def unembed(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> the head's input [rows, hidden], and the other streams projected."""
        projected = torch.bmm(self.precision.lower(streams[1:]), self.weights.unembed.transpose(1, 2))
        projected = self.precision.restore(projected)
        hidden = self.workspace.new_empty(*streams.shape[1:])
        return unembed_streams(streams[0], projected, self.weights.final_norm, self.shape.eps, out=hidden), projected

    def head(
        self, streams: Tensor, labels: Tensor, scale: Tensor, plan: StepPlan, observed: Observed | None
    ) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> losses [rows] and the streams' gradient times `scale`."""
        w = self.weights
        hidden, projected = self.unembed(streams)
        losses, dhidden = linear_cross_entropy(
            hidden, w.head, labels, self.shape.softcap, dhidden=hidden, chunk_rows=plan.head_rows, observed=observed
        )
        # [1, 1] and not []: torch then multiplies in fp32 and rounds once.
        torch.mul(dhidden, scale, out=dhidden)
        dstreams = torch.empty_like(streams)
        _, dprojected = unembed_streams_backward(
            dhidden, streams[0], projected, w.final_norm, self.shape.eps, dfirst=dstreams[0], dprojected=projected
        )
        if dprojected.dtype == w.unembed.dtype:
            torch.bmm(dprojected, w.unembed, out=dstreams[1:])
        else:
            dstreams[1:] = torch.bmm(dprojected.to(w.unembed.dtype), w.unembed)
        return losses, dstreams

    def backward(
        self,
        dstreams: Tensor,
        kept: list[Activations],
        below: Tensor | None,
        ple: Tensor,
        context: StepContext,
        keys: Keys,
        plan: StepPlan,
    ) -> None:
        size = (context.tokens, self.shape.kv_heads, self.shape.head_dim)
        wide = torch.float64 if dstreams.dtype == torch.float64 else torch.float32
        dkeys: Keys = {
            source: (
                torch.zeros(size, dtype=wide, device=self.device),
                torch.zeros(size, dtype=wide, device=self.device),
            )
            for source in self._sources
        }
        lowest = min(w.index for w in self.weights.layers if any(group.branches for group in w.groups))
        for layer in reversed(self.layers[lowest:]):
            index, last = layer.index, layer.index == lowest
            act = kept.pop()
            if plan.offload:
                self._host.fetch(index, act, then=kept[-1] if kept and not last else None)
            layer.backward(dstreams, act, self._given(index, ple, context), keys, dkeys, plan.chunk, last=last)
            if index == self.shape.boundary:
                if context.rows is not None:
                    dstreams = _scattered(dstreams, context.rows, context.tokens)
                else:
                    below = act.streams
                self.boundary_keys.backward(dkeys.pop(index), below, context.inputs.positions, dstreams, last=last)
                del below
            keys.pop(index, None)

    @cached_property
    def _sources(self) -> set[int]:
        """Layers whose K and V others read: they live until their own backward."""
        return {self.shape.kv_source(index) for index in range(self.shape.boundary, self.shape.layers)}


def _results(losses: Tensor, observed: Observed | None) -> TokenResults:
    return TokenResults(losses) if observed is None else TokenResults(losses, observed.entropy, observed.top)


def _scattered(values: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """[n, rows, hidden] into zeros [n, tokens, hidden]. A row may repeat where all but one of its values are zero."""
    full = values.new_zeros(values.shape[0], tokens, values.shape[2])
    return full.index_add_(1, rows, values)
