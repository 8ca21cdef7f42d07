"""A Gemma language model with frozen weights and a trainable adapter: what callers hold in their hands.

The project's own train loop calls `loss_and_gradients`; transformers' and TRL's trainers use the same object as the
nn.Module that its base class makes of it (facade.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from agentloop.engine import adapter, arguments, exporting, merged
from agentloop.engine.batch import PackedBatch, join
from agentloop.engine.context import StepContext, StepInputs, make_context, step_inputs
from agentloop.engine.facade import TrainerFacade
from agentloop.engine.graph import StepGraphs
from agentloop.engine.lora import LoraBuffer, LoraSettings
from agentloop.engine.memory import (
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
from agentloop.engine.network import Network
from agentloop.engine.projection import Workspace
from agentloop.engine.results import TokenResults
from agentloop.engine.weights import ModelWeights
from agentloop.errors import ModelError, SettingError
from agentloop.model_directory.architecture import Architecture
from agentloop.records import NONE, Quantization
from agentloop_kernels.nf4 import BLOCK, Nf4

if TYPE_CHECKING:
    from agentloop.engine.compilation import Compilation
    from agentloop.exports.verification import Figures

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


class Gemma(TrainerFacade):
    """A Gemma language model with frozen weights and, after `FastLanguageModel.get_peft_model`, a trainable LoRA adapter.

    It is an nn.Module whose only parameter is the adapter, so transformers' and TRL's trainers take it as it is. Made by
    `FastLanguageModel.from_pretrained`.
    """

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
        super().__init__(directory)
        self.cache_directory = cache_directory
        self.shape, self.weights, self.fingerprint = shape, weights, fingerprint
        self.device, self.dtype, self.max_seq_length = device, dtype, max_seq_length
        self.memory_budget = memory_budget
        """Memory of the device in GiB that this process may hold at its peak; "auto": what is free."""
        self.plan: StepPlan | None = None
        """What every step keeps for the backward pass; None: as much as the budget allows."""
        self.workspace = Workspace(device, dtype, resident=resident)
        self.network = Network(shape, weights, self.workspace, device=device, dtype=dtype)
        self.graphs = graphs
        self.compilation: Compilation | None = None
        """Of the kernels, while it is under way: the first step waits for it."""
        self._lora: LoraBuffer | None = None

    @property
    def lora(self) -> LoraBuffer:
        """The adapter's weights and gradients. Raises ModelError before `FastLanguageModel.get_peft_model`."""
        if self._lora is None:
            raise ModelError("the model has no adapter: call FastLanguageModel.get_peft_model first")
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
        self.release_graphs()
        self._lora = LoraBuffer(settings, groups, device=self.device, dtype=self.dtype)
        for layer in self.weights.layers:
            for group in layer.groups:
                group.attach(self._lora, self.device)
        self.adapter = torch.nn.Parameter(self._lora.parameters)
        """[size] fp32: the LoRA buffer itself, where trainers look for it."""

    def loss_and_gradients(
        self, batch: PackedBatch, *, scale: float = 1.0, weight: float | None = None, skip: bool | None = None
    ) -> LossSum:
        """Add scale * weight * d(summed cross-entropy) to `lora.gradients` and return the summed loss.

        `weight` is 1 / supervised tokens of the whole optimizer step; None: of this batch. `skip` forces skipping in the
        upper layers on or off; None: where it saves time. Raises ModelError where a sequence is longer than `max_seq_length`
        or the model has no adapter.
        """
        count = batch.supervised
        if not count:
            self._prepare(batch)
            return LossSum(torch.zeros((), dtype=self.lora.gradients.dtype, device=self.device), 0)
        results = self.results_and_gradients(batch, scale * (1 / count if weight is None else weight), skip=skip)
        return LossSum(results.losses.sum(), count)

    def results_and_gradients(
        self, batch: PackedBatch, weight: float | Tensor, *, observe: bool = False, skip: bool | None = None
    ) -> TokenResults:
        """Add weight * d(summed cross-entropy) to `lora.gradients` and return the losses of the supervised tokens.

        A tensor `weight` [supervised] weighs each token by itself. `observe` asks for `entropy` and `top` too. Raises
        ModelError where a sequence is longer than `max_seq_length` or the model has no adapter.
        """
        self._prepare(batch)
        count, wide = batch.supervised, self.lora.gradients.dtype
        if not count:
            return self._no_results(observe)
        plan = self.step_plan(batch, skip=skip)
        if isinstance(weight, Tensor):
            inputs = step_inputs(batch, skip=skip).to(self.device)
            return self._step(inputs, weight.to(self.device, wide).unsqueeze(1), plan, observe)
        factor = torch.full((1, 1), weight, dtype=wide, device=self.device)
        inputs = step_inputs(batch, skip=skip, padded=self.graphs)
        if self.graphs:
            return self._graphs.run(inputs, factor, plan, observe).first(count)
        return self._step(inputs.to(self.device), factor, plan, observe)

    def _step(self, inputs: StepInputs, factor: Tensor, plan: StepPlan, observe: bool = False) -> TokenResults:
        # A captured step must not rely on what the step before it left in the workspace.
        self.workspace.begin_step()
        weights = self.lora.backward_weights(factor)
        return self.network.gradients(make_context(self.shape, inputs), plan, weights, observe=observe)

    def token_results(self, batch: PackedBatch, *, observe: bool = False) -> TokenResults:
        """Return the losses of the supervised tokens; `observe` asks for `entropy` and `top` too. No gradient is computed.

        Raises ModelError where a sequence is longer than `max_seq_length`.
        """
        if not batch.supervised:
            return self._no_results(observe)
        return self.network.results(self._context(batch), self._inference_plan, observe=observe)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """Return the output head's input at each position that has a label: [supervised, hidden].

        Raises ModelError where a sequence is longer than `max_seq_length`.
        """
        return self.network.hidden(self._context(batch), self._inference_plan)

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the logits of the next token at each position that has a label: [supervised, vocab].

        Raises ModelError where a sequence is longer than `max_seq_length`.
        """
        return self.network.logits(self._context(batch), self._inference_plan)

    def logprobs(self, token_ids: Sequence[int], *, adapter: bool = True) -> Tensor:
        """Return the log probability in nats of each token given those before it: [len(token_ids) - 1], on the CPU.

        `adapter=False` asks the base. Raises ModelError where the sequence is longer than `max_seq_length`.
        """
        batch = join([(list(token_ids), [True] * len(token_ids))])
        self.workspace.adapter_enabled = adapter
        result = self.network.logprobs(self._context(batch), self._inference_plan).cpu()
        self.workspace.adapter_enabled = True
        return result

    def _context(self, batch: PackedBatch) -> StepContext:
        if self._lora is not None:
            self._lora.refresh()  # a trainer's optimizer changes the parameters alone
        self._prepare(batch)
        self.workspace.begin_step()
        return make_context(self.shape, step_inputs(batch).to(self.device))

    @property
    def _inference_plan(self) -> StepPlan:
        streams = (Keep.STREAMS,) * self.shape.layers
        # Beside a trainer's state a card may have no more room than its leanest step takes.
        return StepPlan(streams) if self.device.type == "cpu" else StepPlan(streams, False, *LEAN[-1])

    def _no_results(self, observe: bool) -> TokenResults:
        none = torch.zeros(0, device=self.device)
        return TokenResults(none, none, none.bool()) if observe else TokenResults(none)

    def _prepare(self, batch: PackedBatch) -> None:
        if self.compilation:
            self.compilation.wait()
            self.compilation = None
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
        inputs = step_inputs(batch, skip=skip, padded=self.graphs)
        tokens, supervised, *_, skip = inputs.size
        matrices = self.workspace.bytes_for(self.weights.layers)
        return StepSize(
            tokens,
            supervised if skip else tokens,
            supervised,
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
        lora = self.lora
        copy = 0 if lora.compute is lora.parameters else lora.compute.nbytes
        return self.weights.device_bytes + lora.parameters.nbytes + lora.gradients.nbytes + copy + lora.optimizer_bytes

    @cached_property
    def _graphs(self) -> StepGraphs:
        return StepGraphs(self._step, self.device)

    def release_graphs(self) -> None:
        """Give back the memory of the recorded CUDA graphs. Steps are recorded anew when they come again."""
        if graphs := self.__dict__.pop("_graphs", None):
            graphs.release()

    # adapters

    def save_pretrained(self, directory: str | Path, **others: Any) -> None:
        """Write the adapter into `directory`, in PEFT's format, which PEFT and vLLM read.

        Raises SettingError for an argument that is not supported, DiskError where the directory cannot be written to.
        """
        arguments.refuse(others)
        adapter.save(
            self.lora, Path(directory), base=self.fingerprint, model=self.directory, in_16bit=self.quantization.in_16bit
        )

    def save_pretrained_merged(
        self,
        directory: str | Path,
        tokenizer: Any = None,
        save_method: str = "merged_16bit",
        *,
        base: merged.Base = "bf16",
        verify: bool = True,
        **others: Any,
    ) -> list[Figures]:
        """Write base and adapter as one checkpoint into `directory`, which must not exist, and return how far it is from here.

        `base` says which weights the adapter is merged onto: "bf16", the original ones, or "dequantised", those of the NF4
        that it was trained on. The base's tokenizer comes along; `tokenizer` replaces it. `save_method="lora"` writes the
        adapter alone, as `save_pretrained` does. `verify`: transformers is asked what it computes with the checkpoint, which
        takes the memory of the model in fp32; what is not what was trained is removed.

        Raises SettingError where `directory` exists or an argument is not supported, ModelError where the checkpoint is not
        what was trained, DiskError where it cannot be written.
        """
        arguments.refuse(others)
        if save_method not in ("merged_16bit", "lora"):
            raise SettingError(f"save_method: {save_method!r} is not supported, only 'merged_16bit' and 'lora'")
        if save_method == "merged_16bit":
            return exporting.save_merged(self, Path(directory), tokenizer=tokenizer, base=base, verify=verify)
        self.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        return []

    def save_pretrained_gguf(
        self,
        directory: str | Path,
        tokenizer: Any = None,
        quantization_method: str | list[str] | tuple[str, ...] = "q8_0",
        *,
        save_method: str = "merged",
        base: merged.Base | None = None,
        verify: bool = True,
        **others: Any,
    ) -> list[Figures]:
        """Write the model for llama.cpp and Ollama into `directory`, which must not exist, and return how far it is from here.

        - `quantization_method`: f32, f16, bf16, q8_0 or q4_k_m, or several of them; Unsloth's not_quantized, fast_quantized and
          quantized are f16, q8_0 and q4_k_m. The last one takes llama.cpp's library (`agentloop[llamacpp]`).
        - `save_method`: "merged", or "lora": the adapter as a file of its own beside its base.
        - `base`: the weights that the adapter goes onto, "bf16", the original ones, or "dequantised"; None: those that it was
          trained on.
        - `tokenizer`: replaces the base's.
        - `verify`: llama.cpp, where it is installed, else transformers is asked what it computes with each file; a file that is
          not what was trained is removed.

        A Modelfile for Ollama lies beside the files. Raises SettingError where `directory` exists or for an argument,
        ModelError where llama.cpp does not compute such a model or computes something else, DiskError.
        """
        arguments.refuse(others)
        if save_method not in ("merged", "lora"):
            raise SettingError(f"save_method: {save_method!r} is not supported, only 'merged' and 'lora'")
        kinds = quantization_method if isinstance(quantization_method, list | tuple) else [quantization_method]
        return exporting.save_gguf(
            self, Path(directory), tokenizer=tokenizer, kinds=kinds, base=base, as_adapter=save_method == "lora",
            verify=verify,
        )  # fmt: skip

    def load_adapter(self, directory: str | Path) -> None:
        """Replace the adapter's weights with those in `directory`, in PEFT's format.

        Raises AdapterError where they belong to another base or to other modules.
        """
        adapter.load(self.lora, Path(directory), base=self.fingerprint)
