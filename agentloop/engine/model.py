"""A Gemma 3n language model with frozen weights and a trainable adapter: what callers hold in their hands."""

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
from agentloop.engine.context import StepInputs, make_context, step_inputs
from agentloop.engine.graph import StepGraphs
from agentloop.engine.lora import LoraBuffer, LoraSettings
from agentloop.engine.memory import GIB, Keep, StepPlan, StepSize, choose, peak_bytes
from agentloop.engine.network import Network
from agentloop.engine.projection import Workspace
from agentloop.engine.weights import ModelWeights
from agentloop.errors import ModelError

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
    def __init__(
        self,
        shape: Architecture,
        weights: ModelWeights,
        *,
        fingerprint: str,
        device: torch.device,
        dtype: torch.dtype,
        max_seq_length: int,
        memory_budget: float | Literal["auto"],
        resident: bool,
        graphs: bool,
    ) -> None:
        self.shape, self.weights, self.fingerprint = shape, weights, fingerprint
        self.device, self.dtype, self.max_seq_length = device, dtype, max_seq_length
        self.memory_budget = memory_budget
        """GiB that a step may need at its peak; auto: what is free on the device."""
        self.plan: StepPlan | None = None
        """Forces what a step keeps; None: as much as the budget allows."""
        self.workspace = Workspace(device, dtype, resident=resident)
        self.network = Network(shape, weights, self.workspace, device=device, dtype=dtype)
        self.graphs = graphs
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
                covered = [
                    (name, group.inputs, weight.shape[0])
                    for name, weight in group.parts
                    if settings.covers(layer.index, name.rpartition(".")[2])
                ]
                if covered:
                    groups.append(covered)
        if not groups:
            raise ModelError(
                f"target_modules: none of {', '.join(settings.targets)} is in the layers that were asked for"
            )
        self.workspace.release()
        self.__dict__.pop("_graphs", None)
        self._lora = LoraBuffer(settings, groups, device=self.device, dtype=self.dtype)
        for layer in self.weights.layers:
            for group in layer.groups:
                group.attach(self._lora, self.device)

    def loss_and_gradients(
        self, batch: PackedBatch, *, scale: float = 1.0, weight: float | None = None, skip: bool | None = None
    ) -> LossSum:
        """Add scale * weight * d(summed cross-entropy) to `lora.gradients` and return the sum itself.

        `weight` is 1 / supervised tokens of the whole optimizer step (of this batch where None). `skip` forces
        upper-layer skipping on or off. Raises ModelError where a segment is longer than max_seq_length.
        """
        self._check(batch)
        wide = self.lora.gradients.dtype
        count = batch.supervised
        if not count:
            return LossSum(torch.zeros((), dtype=wide, device=self.device), 0)
        factor = torch.full((1, 1), scale * (1 / count if weight is None else weight), dtype=wide, device=self.device)
        plan = self.step_plan(batch, skip=skip)
        inputs = step_inputs(batch, skip=skip, padded=self.graphs)
        if self.graphs:
            return LossSum(self._graphs.run(inputs, factor, plan), count)
        return LossSum(self._step(inputs.to(self.device), factor, plan), count)

    def _step(self, inputs: StepInputs, factor: Tensor, plan: StepPlan) -> Tensor:
        # A captured step must not rely on what the step before it left in the workspace.
        self.workspace.begin_step()
        return self.network.gradients(make_context(self.shape, inputs), plan, factor)

    def logprobs(self, token_ids: Sequence[int], *, adapter: bool = True) -> Tensor:
        """log p of every token given those before it, [len(token_ids) - 1] on the CPU; `adapter=False` asks the base."""
        batch = join([(list(token_ids), [True] * len(token_ids))])
        self._check(batch)
        self.workspace.begin_step()
        self.workspace.adapter_enabled = adapter
        context = make_context(self.shape, step_inputs(batch, skip=False).to(self.device))
        result = self.network.logprobs(context, StepPlan((Keep.STREAMS,) * self.shape.layers)).cpu()
        self.workspace.adapter_enabled = True
        return result

    def _check(self, batch: PackedBatch) -> None:
        if batch.max_seqlen > self.max_seq_length:
            raise ModelError(
                f"max_seq_length: a sequence has {batch.max_seqlen} tokens, the model was loaded for {self.max_seq_length}"
            )

    # memory

    def step_plan(self, batch: PackedBatch, *, skip: bool | None = None) -> StepPlan:
        """What a step with this batch keeps, recomputes and moves to the host, within `memory_budget`."""
        if self.plan is not None:
            return self.plan
        if self.device.type == "cpu":
            return StepPlan((Keep.ALL,) * self.shape.layers)
        budget = self._free_bytes if self.memory_budget == "auto" else int(self.memory_budget * GIB)
        return choose(self.shape, self._step_size(batch, skip), self._fixed_bytes, budget)

    def predicted_peak(self, batch: PackedBatch) -> int:
        """Bytes of device memory that a step with this batch and AdamW is predicted to need at its peak."""
        return peak_bytes(self.shape, self.step_plan(batch), self._step_size(batch, None), self._fixed_bytes)

    def _step_size(self, batch: PackedBatch, skip: bool | None) -> StepSize:
        inputs = step_inputs(batch, skip=skip, padded=self.graphs)
        tokens, supervised, *_, skip = inputs.size
        matrices = self.workspace.bytes_for(self.weights.layers)
        return StepSize(
            tokens,
            supervised if skip else tokens,
            supervised,
            self.dtype.itemsize,
            self.weights.layers[0].gate_up.rank,
            matrices,
        )

    @cached_property
    def _free_bytes(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(AUTO_SHARE * (free + torch.cuda.memory_reserved(self.device)))

    @property
    def _fixed_bytes(self) -> int:
        """Weights, adapter, its gradients and the optimizer's state."""
        lora = self.lora
        copy = 0 if lora.compute is lora.parameters else lora.compute.nbytes
        return self.weights.device_bytes + lora.parameters.nbytes + lora.gradients.nbytes + copy + lora.optimizer_bytes

    @cached_property
    def _graphs(self) -> StepGraphs:
        return StepGraphs(self._step, self.device)

    # adapters

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the adapter in PEFT's format, whole or not at all. Raises DiskError."""
        adapter.save(self.lora, Path(directory), base=self.fingerprint)

    def load_adapter(self, directory: str | Path) -> None:
        """Replace the adapter's weights. Raises AdapterError where it belongs to another base or has other modules."""
        adapter.load(self.lora, Path(directory), base=self.fingerprint)
