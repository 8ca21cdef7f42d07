"""A language model with frozen weights and a trainable adapter: its steps, and the memory that they take.

The project's own train loop calls `loss_and_gradients`. What transformers' and TRL's trainers ask for besides, and what users
save and load, is in api/facade.py and api/model.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from agentloop.engine.batch import PackedBatch, join
from agentloop.engine.batch.shapes import KnownShapes, StepShape, exact, rounded
from agentloop.engine.lora.buffer import LoraBuffer, LoraSettings
from agentloop.engine.lora.projection import Workspace
from agentloop.engine.memory.plans import (
    GIB,
    LEAN,
    OUTSIDE,
    Keep,
    StepPlan,
    StepSize,
    choose,
    leanest,
    peak_bytes,
    process_bytes,
)
from agentloop.engine.models.weights import ModelWeights
from agentloop.engine.numerics.modes import usual_modes
from agentloop.engine.numerics.precision import wide_dtype
from agentloop.engine.step.context import StepContext, StepInputs, make_context, step_inputs
from agentloop.engine.step.graph import StepGraphs
from agentloop.engine.step.network import LeftKeys, Network, Scale
from agentloop.engine.step.results import TokenResults
from agentloop.engine.step.rule import Rule
from agentloop.errors import ModelError, SettingError
from agentloop.model_directory.architecture import Architecture
from agentloop.records import NONE, Quantization
from agentloop_kernels.nf4 import BLOCK, Nf4

AUTO_SHARE = 0.95
"""Of the free device memory; the rest is for what others, a desktop say, come to take of it."""


@dataclass(frozen=True)
class LossSum:
    """The loss of one batch."""

    loss_sum: Tensor
    """Summed cross-entropy in nats, [] on the model's device: reading it waits for the device."""
    supervised: int
    """Number of tokens that it was summed over."""

    @property
    def mean(self) -> float:
        """Mean cross-entropy in nats per supervised token; 0.0 where there is none. Waits for the device."""
        return float(self.loss_sum) / max(self.supervised, 1)


class Compilation(Protocol):
    """Kernels that are being compiled in another process."""

    def wait(self) -> Any:
        """Return when it has ended, well or not."""


class LanguageModel(nn.Module):
    """A language model with frozen weights and, after `attach_lora`, a LoRA adapter: the only parameter of the nn.Module."""

    @usual_modes()
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
        directory: Path | None = None,
        cache_directory: Path | None = None,
    ) -> None:
        super().__init__()
        # The caller's working directory may be another when they are read again.
        self.directory = None if directory is None else directory.absolute()
        """Directory of the base model; None for a model without files."""
        self.cache_directory = None if cache_directory is None else cache_directory.absolute()
        self.shape, self.weights, self.fingerprint = shape, weights, fingerprint
        self.device, self.dtype, self.max_seq_length = device, dtype, max_seq_length
        self.memory_budget = memory_budget
        """Memory of the device in GiB that this process may hold at its peak; "auto": what is free."""
        self.plan: StepPlan | None = None
        """What every step keeps for the backward pass; None: as much as the budget allows."""
        self.workspace = Workspace(device, dtype, resident=resident)
        self.network = Network(shape, weights, self.workspace, device=device, dtype=dtype)
        self.graphs = graphs
        self._known = KnownShapes(shape)
        self.compilation: Compilation | None = None
        """Of the kernels, while it is under way: the first step waits for it."""
        self._lora: LoraBuffer | None = None

    @property
    def lora(self) -> LoraBuffer:
        """The adapter's weights and gradients. Raises ModelError before `FastLanguageModel.get_peft_model`."""
        if self._lora is None:
            raise ModelError("the model has no adapter: call FastLanguageModel.get_peft_model first")
        # Another object after load_state_dict(assign=True) and torch.func.functional_call.
        self._lora.parameter = self._parameters["adapter"]
        return self._lora

    @property
    def quantization(self) -> Quantization:
        """Return which linears of the base are in NF4 and which in 16 bit."""
        parts = {
            name: weight for layer in self.weights.layers for group in layer.groups for name, weight in group.parts
        }
        if not any(isinstance(weight, Nf4) for weight in parts.values()):
            return NONE
        dense = (name for name, weight in parts.items() if isinstance(weight, Tensor) and weight.shape[1] % BLOCK == 0)
        return Quantization(True, tuple(sorted(dense)))

    @usual_modes()
    def attach_lora(self, settings: LoraSettings) -> None:
        """Give the covered projections a fresh adapter (B is zero: the outputs do not change).

        A loaded or trained adapter of these settings stays, with a warning. Raises SettingError where it has others.
        """
        if self._lora is not None and self.lora.trained:
            if differing := self.lora.differences(settings):
                raise SettingError(
                    f"{differing}, and the model's adapter, loaded or trained, would be lost: model.unload() takes it off"
                )
            warnings.warn("get_peft_model: the model has this adapter already; its weights stay", stacklevel=4)
            return
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
        self.release_graphs()
        self._lora = LoraBuffer(settings, groups, device=self.device, dtype=self.dtype)
        for layer in self.weights.layers:
            for group in layer.groups:
                group.attach(self._lora, self.device)
        self.adapter = self._lora.parameter
        """[size] fp32: the LoRA buffer itself, where trainers look for it."""

    def unload(self) -> Self:
        """Take the adapter off, so that `FastLanguageModel.get_peft_model` can give another, and return the model."""
        if self._lora is not None:
            self.workspace.release()
            self.release_graphs()
            self._lora = None
            del self.adapter
            for layer in self.weights.layers:
                for group in layer.groups:
                    group.detach()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For a copy: graphs are recorded anew."""
        self._wait_for_kernels()
        return {name: value for name, value in self.__dict__.items() if name != "_graphs"}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A model with an adapter of its own, which shares the frozen weights with this one."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        memo |= {id(each): each for each in self.weights.frozen()}
        copied.__dict__.update(deepcopy(self.__getstate__(), memo))
        return copied

    @usual_modes()
    def loss_and_gradients(
        self, batch: PackedBatch, *, scale: float = 1.0, weight: float | None = None, skip: bool | None = None
    ) -> LossSum:
        """Add scale * weight * d(summed cross-entropy) to `lora.gradients` and return the summed loss.

        `weight` is 1 / supervised tokens of the whole optimizer step; None: of this batch. `skip` forces skipping in the
        upper layers on or off; None: where it saves time. Raises ModelError where a sequence is longer than `max_seq_length`
        or the model has no adapter, SettingError for an id that is no token.
        """
        count = batch.supervised
        if not count:
            self._prepare(batch)
            return LossSum(torch.zeros((), dtype=self.lora.gradients.dtype, device=self.device), 0)
        results = self.results_and_gradients(batch, scale * (1 / count if weight is None else weight), skip=skip)
        return LossSum(results.losses.sum(), count)

    @usual_modes()
    def results_and_gradients(
        self,
        batch: PackedBatch,
        weight: float | Tensor,
        *,
        rule: Rule | None = None,
        observe: bool = False,
        skip: bool | None = None,
    ) -> TokenResults:
        """Add weight * d(summed cross-entropy) to `lora.gradients` and return the losses of the supervised tokens.

        A tensor `weight` [supervised] weighs each token by itself, and so does `rule`, which is given each token's own loss and
        the batch's `columns`. `observe` asks for `entropy` and `top` too. Raises ModelError where a sequence is longer than
        `max_seq_length` or the model has no adapter, SettingError for an id that is no token, ValueError for a rule without
        columns.
        """
        if rule is None and batch.columns is not None:
            batch = replace(batch, columns=None)
        if rule is not None and batch.columns is None:
            raise ValueError("rule: the batch has no columns that it could go by")
        self._prepare(batch)
        count, wide = batch.supervised, self.lora.gradients.dtype
        if not count:
            return self._no_results(observe)
        plan = self.step_plan(batch, skip=skip)
        if isinstance(weight, Tensor):
            inputs = step_inputs(batch, skip=skip).to(self.device)
            return self._step(inputs, weight.to(self.device, wide).unsqueeze(1), plan, observe, rule)
        factor = torch.full((1, 1), weight, dtype=wide, device=self.device)
        shape = self.step_shape(batch, skip=skip)
        inputs = step_inputs(batch, shape=shape)
        if self.graphs:
            recurs = shape in self._known.shapes
            return self._graphs.run(inputs, factor, plan, observe, rule, recurs=recurs).first(count)
        return self._step(inputs.to(self.device), factor, plan, observe, rule)

    def expect(self, batches: Iterable[PackedBatch]) -> None:
        """Choose the sizes that steps with these batches are padded to: few, so that few CUDA graphs are recorded.

        For a run whose batches are known: all of them, also where it continues. Without it sizes are rounded up, and a
        batch's step is recorded when its size comes for the second time.
        """
        self._known = KnownShapes(self.shape, batches)

    def step_shape(self, batch: PackedBatch, *, skip: bool | None = None) -> StepShape:
        """Return the sizes that a step with this batch is computed in: padded where steps are recorded as CUDA graphs."""
        shape = exact(batch, skip)
        return (self._known.covering(shape) or rounded(shape)) if self.graphs else shape

    def _step(
        self,
        inputs: StepInputs,
        factor: Tensor,
        plan: StepPlan,
        observe: bool = False,
        rule: Rule | None = None,
    ) -> TokenResults:
        # A captured step must not rely on what the step before it left in the workspace.
        self.workspace.begin_step()
        scale: Tensor | Scale
        if rule is None or inputs.columns is None:
            scale = self.lora.backward_weights(factor)
        else:
            scale = partial(self._weighed, factor=factor, rule=rule, columns=inputs.columns)
        return self.network.gradients(make_context(self.shape, inputs), plan, scale, observe=observe)

    def _weighed(self, losses: Tensor, *, factor: Tensor, rule: Rule, columns: Tensor) -> Tensor:
        coefficients = rule(losses, columns.to(losses.dtype))
        return self.lora.backward_weights(factor * coefficients.unsqueeze(1))

    @usual_modes()
    def token_results(self, batch: PackedBatch, *, observe: bool = False, adapter: bool = True) -> TokenResults:
        """Return the losses of the supervised tokens; `observe` asks for `entropy` and `top` too. No gradient is computed.

        `adapter=False` asks the base. Raises ModelError where a sequence is longer than `max_seq_length`, SettingError for an
        id that is no token.
        """
        if not batch.supervised:
            self._prepare(batch)
            return self._no_results(observe)
        with nullcontext() if adapter else self.workspace.without_adapter():
            return self.network.results(self._context(batch), self._inference_plan, observe=observe)

    @usual_modes()
    def hidden(self, batch: PackedBatch, left: LeftKeys | None = None) -> Tensor:
        """Return the output head's input at each position that has a label: [supervised, hidden].

        `left` is told the keys and values of every layer that has its own. Raises ModelError where a sequence is longer than
        `max_seq_length`, SettingError for an id that is no token.
        """
        if not batch.supervised:
            self._prepare(batch)
            return torch.zeros(0, self.shape.hidden, dtype=self.dtype, device=self.device)
        return self.network.hidden(self._context(batch), self._inference_plan, left)

    @usual_modes()
    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits of the next token at each position that has a label: [supervised, vocab].

        Raises ModelError where a sequence is longer than `max_seq_length`, SettingError for an id that is no token.
        """
        if not batch.supervised:
            self._prepare(batch)
            return torch.zeros(0, self.shape.vocab, dtype=self.dtype, device=self.device)
        return self.network.logits(self._context(batch), self._inference_plan)

    @usual_modes()
    def logprobs(self, token_ids: Sequence[int], *, adapter: bool = True) -> Tensor:
        """Return the log probability in nats of each token given those before it: [len(token_ids) - 1], on the CPU.

        `adapter=False` asks the base. Raises ModelError where the sequence is longer than `max_seq_length`, SettingError for an
        id that is no token.
        """
        batch = join([(list(token_ids), [True] * len(token_ids))])
        return -self.token_results(batch, adapter=adapter).losses.cpu()

    def _context(self, batch: PackedBatch) -> StepContext:
        self._prepare(batch)
        self.workspace.begin_step()
        return make_context(self.shape, step_inputs(batch).to(self.device))

    @property
    def _inference_plan(self) -> StepPlan:
        streams = (Keep.STREAMS,) * self.shape.layers
        # Beside a trainer's state a card may have no more room than its leanest step takes.
        return StepPlan(streams) if self.device.type == "cpu" else StepPlan(streams, False, *LEAN[-1])

    def _no_results(self, observe: bool) -> TokenResults:
        losses = torch.zeros(0, dtype=wide_dtype(self.dtype), device=self.device)
        return TokenResults(losses, losses.clone(), losses.bool()) if observe else TokenResults(losses)

    def _wait_for_kernels(self) -> None:
        if self.compilation:
            self.compilation.wait()
            self.compilation = None

    def _prepare(self, batch: PackedBatch) -> None:
        self._wait_for_kernels()
        if self._lora is not None:
            before = self._lora.address
            self.lora.refresh()  # a trainer's optimizer changes the parameter alone
            if before != self._lora.address:
                self.release_graphs()  # they read the tensor that was there before
        batch.check(self.shape.vocab)
        if batch.max_seqlen > self.max_seq_length:
            raise ModelError(
                f"max_seq_length: a sequence has {batch.max_seqlen} tokens, the model was loaded for {self.max_seq_length}"
            )

    # memory

    def step_plan(self, batch: PackedBatch, *, skip: bool | None = None) -> StepPlan:
        """Return what a step with this batch keeps, recomputes and moves to the host, within `memory_budget`.

        Raises SettingError where a `memory_budget` in GiB is less than the leanest plan needs.
        """
        if self.plan is not None:
            return self.plan
        if self.device.type == "cpu":
            return StepPlan((Keep.ALL,) * self.shape.layers)
        budget = self._free_bytes if self.memory_budget == "auto" else int(self.memory_budget * GIB)
        plan = self.plan_within(batch, budget, skip=skip)
        if self.memory_budget != "auto" and plan == leanest(self.shape):  # chosen also where it does not fit
            need = self._peak(plan, batch, skip)
            if need > budget:
                raise SettingError(
                    f"memory_budget: {self.memory_budget:g} GiB, but {batch.tokens} tokens need at least {need / GIB:.2f}"
                )
        return plan

    def plan_within(self, batch: PackedBatch, budget: int, *, skip: bool | None = None) -> StepPlan:
        """Return the fastest plan with which the process is predicted to hold at most `budget` bytes of the device.

        Where there is none it is the leanest plan.
        """
        return choose(self.shape, self._step_size(batch, skip), self._fixed_bytes, budget)

    def predicted_peak(self, batch: PackedBatch) -> int:
        """Return the bytes of the device that the process is predicted to hold at the peak of a step with this batch.

        As nvidia-smi shows them: AdamW's state and CUDA's own context are included.
        """
        return self._peak(self.step_plan(batch), batch, None)

    def predicted_tensors(self, batch: PackedBatch) -> int:
        """Return the bytes that torch is predicted to have allocated at the peak of a step with this batch."""
        return peak_bytes(self.shape, self.step_plan(batch), self._step_size(batch, None), self._fixed_bytes)

    def needed(self, batch: PackedBatch, *, skip: bool | None = None) -> int:
        """Return `predicted_peak` with the leanest plan: the least memory with which a step with this batch works."""
        return self._peak(leanest(self.shape), batch, skip)

    def _peak(self, plan: StepPlan, batch: PackedBatch, skip: bool | None) -> int:
        return process_bytes(self.shape, plan, self._step_size(batch, skip), self._fixed_bytes)

    def _step_size(self, batch: PackedBatch, skip: bool | None) -> StepSize:
        shape = self.step_shape(batch, skip=skip)
        matrices = self.workspace.bytes_for(self.weights.layers)
        return StepSize(
            shape.tokens,
            shape.rows if shape.skip else shape.tokens,
            shape.rows,
            self.dtype.itemsize,
            self.network.precision.streams.itemsize,
            self.weights.layers[0].gate_up.rank,
            matrices,
        )

    @cached_property
    def _free_bytes(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return OUTSIDE + int(AUTO_SHARE * (free + torch.cuda.memory_reserved(self.device)))

    @property
    def _fixed_bytes(self) -> int:
        """Weights, adapter, its gradients and the optimizer's state."""
        return self.weights.device_bytes + self.lora.nbytes + self.lora.optimizer_bytes

    @cached_property
    def _graphs(self) -> StepGraphs:
        return StepGraphs(self._step, self.device)

    def release_graphs(self) -> None:
        """Give back the memory of the recorded CUDA graphs. Steps are recorded anew when they come again."""
        if graphs := self.__dict__.pop("_graphs", None):
            graphs.release()
