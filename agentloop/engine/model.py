"""The whole model: packed tokens in, loss and LoRA gradients out, by hand from end to end.

One step: embed -> layers -> (supervised rows) unembed -> head and loss with its gradient -> layers backwards. There is no
autograd graph; gradients are added to the flat LoRA buffer and nothing else has any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from agentloop.engine import adapter
from agentloop.engine.architecture import Architecture
from agentloop.engine.batch import PackedBatch, join
from agentloop.engine.context import StepContext, make_context
from agentloop.engine.layer import Activations, BoundaryKeys, Keys, Layer, LayerInput
from agentloop.engine.lora import LoraBuffer, LoraSettings
from agentloop.engine.memory import GIB, Keep, StepSize, fill, peak_bytes
from agentloop.engine.projection import Workspace
from agentloop.engine.weights import ModelWeights
from agentloop.errors import ModelError
from agentloop_kernels.loss import linear_cross_entropy, linear_logprobs
from agentloop_kernels.magnitude import embed_streams, unembed_streams, unembed_streams_backward
from agentloop_kernels.ple import ple_inputs

HEAD_ROWS = 1024
"""Rows whose logits exist at once."""
AUTO_SHARE = 0.9
"""Of the free device memory; the rest is for fragmentation."""


@dataclass(frozen=True)
class LossSum:
    loss_sum: Tensor
    """Summed cross-entropy in nats, [] on the model's device: reading it waits for the device."""
    supervised: int
    """Tokens it was summed over."""

    @property
    def mean(self) -> float:
        return float(self.loss_sum) / max(self.supervised, 1)


class Gemma3n:
    """A Gemma 3n language model with frozen weights and, after `attach_lora`, a trainable adapter."""

    def __init__(self, shape: Architecture, weights: ModelWeights, *, fingerprint: str, device: torch.device, dtype: torch.dtype,
                 max_seq_length: int, resident: bool, chunk: int = 2048) -> None:
        self.shape, self.weights, self.fingerprint = shape, weights, fingerprint
        self.device, self.dtype, self.max_seq_length = device, dtype, max_seq_length
        self.workspace = Workspace(device, dtype, resident=resident)
        self.layers = [Layer(shape, w, self.workspace, weights.rope[shape.layer_types[w.index]], chunk=chunk) for w in weights.layers]
        boundary = weights.layers[shape.boundary]
        self.boundary_keys = BoundaryKeys(shape, boundary, self.workspace, weights.rope[shape.layer_types[boundary.index]])
        self.chunk = chunk
        self.memory_budget: float | Literal["auto"] = "auto"
        """GiB that a step may need at its peak; auto: what is free on the device."""
        self.keep: tuple[Keep, ...] | None = None
        """What each layer keeps for its backward pass; None: as much as the budget allows."""
        # Rounded to the weights' dtype, as transformers does.
        self._embedding_scale = float(torch.tensor(shape.hidden**0.5, dtype=dtype))
        self._lora: LoraBuffer | None = None

    @property
    def lora(self) -> LoraBuffer:
        """The adapter's weights and gradients. Raises ModelError before `FastLanguageModel.get_peft_model`."""
        if self._lora is None:
            raise ModelError("the model has no adapter: call FastLanguageModel.get_peft_model first")
        return self._lora

    def attach_lora(self, settings: LoraSettings) -> None:
        """Give the covered projections a fresh adapter (B is zero: the outputs do not change)."""
        groups = []
        for layer in self.weights.layers:
            for group in layer.groups:
                covered = [(name, group.inputs, weight.shape[0]) for name, weight in group.parts
                           if settings.covers(layer.index, name.rpartition(".")[2])]
                if covered:
                    groups.append(covered)
        if not groups:
            raise ModelError(f"target_modules: none of {', '.join(settings.targets)} is in the layers that were asked for")
        self.workspace.release()
        self._lora = LoraBuffer(settings, groups, device=self.device, dtype=self.dtype)
        for layer in self.weights.layers:
            for group in layer.groups:
                group.attach(self._lora, self.device)

    # training

    def loss_and_gradients(self, batch: PackedBatch, *, scale: float = 1.0, weight: float | None = None,
                           skip: bool | None = None) -> LossSum:
        """Add scale * weight * d(summed cross-entropy) to `lora.gradients` and return the sum itself.

        `weight` is 1 / supervised tokens of the whole optimizer step (of this batch where None). `skip` forces
        upper-layer skipping on or off. Raises ModelError where a segment is longer than max_seq_length.
        """
        lora = self.lora
        context = self._context(batch, skip)
        count = context.labels.numel()
        if not count:
            return LossSum(torch.zeros((), device=self.device), 0)
        streams, ple = self._embed(context.token_ids)
        keys: Keys = {}
        streams, kept = self._forward(streams, ple, context, keys, self._levels(context))
        if context.rows is None:
            streams = streams[:, context.supervised]
        losses, dstreams = self._head(streams, context.labels, scale * (1 / count if weight is None else weight))
        if context.rows is None:
            dstreams = _scattered(dstreams, context.supervised, context.tokens)
        self._backward(dstreams, kept, ple, context, keys)
        return LossSum(losses.sum(), count)

    def logprobs(self, token_ids: Sequence[int], *, adapter: bool = True) -> Tensor:
        """log p of every token given those before it, [len(token_ids) - 1] on the CPU; `adapter=False` asks the base."""
        context = self._context(join([(list(token_ids), [True] * len(token_ids))]), skip=False)
        self.workspace.adapter_enabled = adapter
        streams, ple = self._embed(context.token_ids)
        streams, _ = self._forward(streams, ple, context, {}, None)
        self.workspace.adapter_enabled = True
        hidden, _ = self._unembed(streams[:, context.supervised])
        return linear_logprobs(hidden, self.weights.head, context.labels, self.shape.softcap, chunk_rows=HEAD_ROWS).cpu()

    def levels(self, batch: PackedBatch) -> str:
        """What the layers would keep for this batch, one digit each (see memory.Keep)."""
        return "".join(str(int(level)) for level in self._levels(self._context(batch, None)))

    def predicted_peak(self, batch: PackedBatch) -> int:
        """Bytes of device memory that a step with this batch and AdamW is predicted to need at its peak."""
        context = self._context(batch, None)
        return peak_bytes(self.shape, self._levels(context), self._step_size(context), self._fixed_bytes)

    def _levels(self, context: StepContext) -> tuple[Keep, ...]:
        if self.keep is not None:
            return self.keep
        if self.device.type == "cpu":
            return (Keep.ALL,) * self.shape.layers
        if self.memory_budget == "auto":
            free, _ = torch.cuda.mem_get_info(self.device)
            budget = int(AUTO_SHARE * (free + torch.cuda.memory_reserved(self.device)))
        else:
            budget = int(self.memory_budget * GIB)
        return fill(self.shape, self._step_size(context), self._fixed_bytes, budget)

    def _step_size(self, context: StepContext) -> StepSize:
        upper = context.tokens if context.rows is None else context.rows.numel()
        rank = self.weights.layers[0].gate_up.rank
        return StepSize(context.tokens, upper, context.labels.numel(), self.dtype.itemsize, rank, self.chunk, HEAD_ROWS)

    @property
    def _fixed_bytes(self) -> int:
        """Weights, dequantised matrices, adapter, its gradients and AdamW's two moments."""
        adapter = self.lora.parameters.numel() * (4 * 4 + (0 if self.lora.compute is self.lora.parameters else self.dtype.itemsize))
        return self.weights.device_bytes + self.workspace.bytes_for(self.weights.layers) + adapter

    def _context(self, batch: PackedBatch, skip: bool | None) -> StepContext:
        if batch.max_seqlen > self.max_seq_length:
            raise ModelError(f"max_seq_length: a sequence has {batch.max_seqlen} tokens, the model was loaded for {self.max_seq_length}")
        return make_context(self.shape, batch, self.device, skip=skip)

    def _embed(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """-> streams [n, tokens, hidden] and the per-layer inputs [tokens, layers * ple]."""
        w, shape = self.weights, self.shape
        first = w.embedding[token_ids] * self._embedding_scale
        projected = torch.matmul(first, w.altup.transpose(1, 2))
        in_table = torch.where(token_ids < shape.ple_vocab, token_ids, 0)
        ple = ple_inputs(first @ w.ple_model_projection.t(), w.ple_table.rows(in_table), w.ple_projection_norm,
                         scale=shape.hidden**-0.5, table_scale=shape.ple**0.5, eps=shape.eps)
        return embed_streams(first, projected), ple

    def _forward(self, streams: Tensor, ple: Tensor, context: StepContext, keys: Keys,
                 keep: Sequence[Keep] | None) -> tuple[Tensor, list[Activations]]:
        """All layers -> the last streams (of the rows that went on) and what each layer kept; None keeps nothing."""
        kept = []
        for layer in self.layers:
            if layer.index == self.shape.boundary:
                keys[layer.index] = self.boundary_keys.forward(streams, context.positions)
                self._boundary_streams = streams
                if context.rows is not None:
                    streams = streams[:, context.rows]
            act = Activations(streams)
            streams = layer.forward(act, self._given(layer.index, ple, context), keys, Keep.STREAMS if keep is None else keep[layer.index])
            if layer.index not in self._sources:
                keys.pop(layer.index, None)
            if keep is not None:
                kept.append(act)
        return streams, kept

    def _given(self, index: int, ple: Tensor, context: StepContext) -> LayerInput:
        upper = index >= self.shape.boundary
        slot = ple[:, index * self.shape.ple : (index + 1) * self.shape.ple]
        if upper and context.rows is not None:
            slot = slot[context.rows]
        plans, positions = (context.upper_plans, context.upper_positions) if upper else (context.plans, context.positions)
        return LayerInput(plans[self.shape.layer_types[index]], positions, slot)

    def _unembed(self, streams: Tensor) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> the head's input [rows, hidden], and the other streams projected."""
        projected = torch.bmm(streams[1:], self.weights.unembed.transpose(1, 2))
        return unembed_streams(streams[0], projected, self.weights.final_norm, self.shape.eps), projected

    def _head(self, streams: Tensor, labels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """[n, rows, hidden] -> losses [rows] and the streams' gradient times `scale`."""
        w = self.weights
        hidden, projected = self._unembed(streams)
        losses, dhidden = linear_cross_entropy(hidden, w.head, labels, self.shape.softcap, dhidden=hidden, chunk_rows=HEAD_ROWS)
        dhidden *= scale
        dstreams = torch.empty_like(streams)
        _, dprojected = unembed_streams_backward(dhidden, streams[0], projected, w.final_norm, self.shape.eps,
                                                 dfirst=dstreams[0], dprojected=projected)
        torch.bmm(dprojected, w.unembed, out=dstreams[1:])
        return losses, dstreams

    def _backward(self, dstreams: Tensor, kept: list[Activations], ple: Tensor, context: StepContext, keys: Keys) -> None:
        size = (context.tokens, self.shape.kv_heads, self.shape.head_dim)
        wide = self.lora.gradients.dtype
        dkeys: Keys = {source: (torch.zeros(size, dtype=wide, device=self.device), torch.zeros(size, dtype=wide, device=self.device))
                       for source in self._sources}
        for layer in reversed(self.layers[self._lowest :]):
            last = layer.index == self._lowest
            layer.backward(dstreams, kept.pop(), self._given(layer.index, ple, context), keys, dkeys, last=last)
            if layer.index == self.shape.boundary:
                if context.rows is not None:
                    dstreams = _scattered(dstreams, context.rows, context.tokens)
                self.boundary_keys.backward(dkeys.pop(layer.index), self._boundary_streams, context.positions, dstreams, last=last)
                del self._boundary_streams
            keys.pop(layer.index, None)

    @cached_property
    def _sources(self) -> set[int]:
        """Layers whose K and V others read: they live until their own backward."""
        return {self.shape.kv_source(index) for index in range(self.shape.boundary, self.shape.layers)}

    @property
    def _lowest(self) -> int:
        """The first layer with LoRA: nothing below it needs a gradient."""
        return min(w.index for w in self.weights.layers if any(group.branches for group in w.groups))

    # adapters

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the adapter in PEFT's format, whole or not at all. Raises DiskError."""
        adapter.save(self.lora, Path(directory), base=self.fingerprint, shape=self.shape)

    def load_adapter(self, directory: str | Path) -> None:
        """Replace the adapter's weights. Raises AdapterError where it belongs to another base or has other modules."""
        adapter.load(self.lora, Path(directory), base=self.fingerprint)


def _scattered(values: Tensor, rows: Tensor, tokens: int) -> Tensor:
    """[n, rows, hidden] into zeros [n, tokens, hidden]."""
    full = values.new_zeros(values.shape[0], tokens, values.shape[2])
    full[:, rows] = values
    return full
