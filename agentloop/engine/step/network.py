"""Embedding, layers, head and the way back: the computation of one step, by hand from end to end.

embed -> layers -> (supervised rows) unembed -> head and loss with its gradient -> layers backwards. There is no autograd
graph; gradients are added to the flat LoRA buffer and nothing else has any. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.activations import Activations, Keys, LayerInput
from agentloop.engine.memory.offload import HostStore
from agentloop.engine.memory.plans import Keep, StepPlan
from agentloop.engine.models.boundary import BoundaryKeys
from agentloop.engine.models.families import FAMILIES
from agentloop.engine.models.weights import ModelWeights
from agentloop.engine.numerics.precision import Precision, wide_dtype
from agentloop.engine.step.context import StepContext
from agentloop.engine.step.results import TokenResults
from agentloop.model_directory.architecture import Architecture
from agentloop_kernels.loss import Observed, linear_cross_entropy, linear_logprobs

Scale = Callable[[Tensor], Tensor]
"""Gives the weight of each label's gradient [supervised, 1] from its cross-entropy [supervised]."""
LeftKeys = Callable[[int, Tensor, Tensor], None]
"""Takes a layer's index and its K and V [tokens, kv_heads, head_dim], which are dropped or overwritten later."""


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
        parts = FAMILIES[shape.family]
        ropes = [weights.rope[kind] for kind in shape.layer_types]
        self.embedding = parts.embedding(shape, weights, workspace)
        self.layers = [parts.layer(shape, w, workspace, rope) for w, rope in zip(weights.layers, ropes, strict=True)]
        boundary = self.layers[shape.boundary]
        self.boundary_keys = BoundaryKeys(
            shape, boundary.weights, workspace, ropes[boundary.index], boundary.input_norm
        )
        self.precision = Precision.of(dtype)
        self._host = HostStore(device)

    def gradients(
        self, context: StepContext, plan: StepPlan, scale: Tensor | Scale, *, observe: bool = False
    ) -> TokenResults:
        """Add the gradient of the cross-entropies, each times `scale`, to LoRA's. `scale`: [1, 1], [supervised, 1], or what
        gives it when the cross-entropies are known.

        `observe` asks for entropy and top as well.
        """
        inputs = context.inputs
        observed = self._observed(inputs.labels) if observe else None
        self._host.begin()
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
        return softcapped(self.hidden(context, plan) @ self.weights.head.t(), self.shape.softcap)

    def hidden(self, context: StepContext, plan: StepPlan, left: LeftKeys | None = None) -> Tensor:
        """The head's input, without anything kept: [supervised, hidden]. `left` is told the K and V of every layer that has
        them."""
        streams, ple = self.embed(context.inputs.token_ids)
        streams, _, _ = self.forward(streams, ple, context, {}, plan, training=False, left=left)
        if context.rows is None:
            streams = streams[:, context.inputs.supervised]
        return self.embedding.unembed(streams)[0]

    def _observed(self, labels: Tensor) -> Observed:
        wide = wide_dtype(self.workspace.dtype)
        entropy = torch.empty(labels.shape, dtype=wide, device=labels.device)
        return Observed(entropy, torch.empty(labels.shape, dtype=torch.bool, device=labels.device))

    def embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """-> streams [n, tokens, hidden] and the per-layer inputs [tokens, layers * ple]."""
        return self.embedding.embed(token_ids)

    def forward(
        self,
        streams: Tensor,
        ple: Tensor,
        context: StepContext,
        keys: Keys,
        plan: StepPlan,
        *,
        training: bool = True,
        left: LeftKeys | None = None,
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
            act = layer.activations(streams)
            keep = plan.keep[layer.index] if training else Keep.STREAMS
            streams = layer.forward(act, self._given(layer.index, ple, context), keys, keep, plan.chunk)
            if left is not None and layer.index in keys:
                left(layer.index, *keys[layer.index])
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

    def head(
        self, streams: Tensor, labels: Tensor, scale: Tensor | Scale, plan: StepPlan, observed: Observed | None
    ) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> losses [rows] and the streams' gradient times `scale`."""
        hidden, saved = self.embedding.unembed(streams)
        losses, dhidden = linear_cross_entropy(
            hidden,
            self.weights.head,
            labels,
            self.shape.softcap,
            dhidden=hidden,
            chunk_rows=plan.head_rows,
            observed=observed,
        )
        # [1, 1] and not []: torch then multiplies in fp32 and rounds once.
        torch.mul(dhidden, scale if isinstance(scale, Tensor) else scale(losses), out=dhidden)
        return losses, self.embedding.unembed_backward(dhidden, streams, saved)

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
        wide = wide_dtype(dstreams.dtype)
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


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """c tanh(logits / c), in place; `logits` themselves where there is no c."""
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _results(losses: Tensor, observed: Observed | None) -> TokenResults:
    return TokenResults(losses) if observed is None else TokenResults(losses, observed.entropy, observed.top)


def _scattered(values: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """[n, rows, hidden] into zeros [n, tokens, hidden]. A row may repeat where all but one of its values are zero."""
    full = values.new_zeros(values.shape[0], tokens, values.shape[2])
    return full.index_add_(1, rows, values)
