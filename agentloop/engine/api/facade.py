"""The model as transformers' and TRL's trainers want it: an nn.Module with a config, one parameter and a loss.

The parameter is the flat LoRA buffer itself: one tensor for the optimizer, for clipping and for a data-parallel
all-reduce. `forward` packs the batch and runs a whole step of the engine, gradient included; autograd gets one node, whose
backward hands that gradient over. Frozen weights are no parameters: they stay where they were loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from agentloop.engine.api import callers
from agentloop.engine.api.lazy import LazyLogits
from agentloop.engine.api.outputs import CausalLMOutput
from agentloop.engine.batch import PackedBatch
from agentloop.engine.batch.layout import Layout
from agentloop.engine.decoding import generation
from agentloop.engine.numerics.modes import usual_modes
from agentloop.engine.step.model import LanguageModel
from agentloop.errors import ModelError, SettingError

if TYPE_CHECKING:
    from transformers import GenerationConfig

IMPLIED = {
    "use_cache", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "fused_lm_head", "token_type_ids",
}  # fmt: skip
"""Inputs that say nothing new: where sequences start is read from position_ids, and nothing is cached."""
BESIDE_LOGITS = ["log_probs", "entropy", "is_top1", "label_mask"]
"""Outputs that transformers' Trainer is not to take for predictions."""


class TrainerFacade(LanguageModel):
    """The engine's model with everything that only trainers ask for."""

    main_input_name = "input_ids"
    loss_type = "ForCausalLM"
    """The loss shifts the labels: the trainer then counts num_items_in_batch rightly."""

    @cached_property
    def model_tags(self) -> list[str]:
        """Tags that trainers write into a model card."""
        return []

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Return True: `forward` takes num_items_in_batch. Every trainer reads this as it is made.

        Raises SettingError where it is one of TRL's with another objective than SFTTrainer's.
        """
        callers.refuse_objective(sys._getframe(1))
        return True

    def modules(self) -> Iterator[nn.Module]:
        """Return this module alone. Raises SettingError where PEFT asks, which would find nothing to adapt."""
        callers.refuse_peft(sys._getframe(1))
        return super().modules()

    def named_modules(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:
        """Return this module alone, under its name. Raises SettingError where PEFT asks."""
        callers.refuse_peft(sys._getframe(1))
        return super().named_modules(*args, **options)

    @cached_property
    def config(self) -> Any:
        """transformers' configuration of the base model.

        It names FlashAttention 2, from which TRL concludes that packed sequences are kept apart.
        """
        from transformers import AutoConfig  # takes seconds

        config = AutoConfig.from_pretrained(self.directory, attn_implementation="flash_attention_2")
        config.keys_to_ignore_at_inference = BESIDE_LOGITS
        return config

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """transformers' defaults for `generate`, from the base model's directory."""
        from transformers import GenerationConfig

        if (self.directory / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(self.directory)
        return GenerationConfig.from_model_config(self.config)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        # TRL lays a head of its own over `forward` of the instance, accelerate a cast; neither has anything to add.
        return type(self).forward(self, *args, **inputs)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Return loss and per-token results where there are `labels`, else the logits.

        All inputs are [batch, tokens]. `labels` are not shifted, and -100 where a token is not trained on. `attention_mask` is
        0 where padded. A sequence starts in each row, and wherever `position_ids` do not go on from the token before. The
        loss is the mean over the labels, or their sum divided by `num_items_in_batch`, and 0 where there is no label.
        `return_dict=False` asks for a tuple of the same values. Raises SettingError for an input that would change the result
        and is not supported, and for a token id or label that the model does not have.
        """
        for name, value in others.items():
            if name not in IMPLIED and not (
                value is None or value is False or (name == "logits_to_keep" and value == 0)
            ):
                raise SettingError(f"{name}: not an input that this model supports")
        if labels is None and self.training and torch.is_grad_enabled():
            raise SettingError(
                "labels: a loss made from logits has no gradient here (label_smoothing_factor, compute_loss_func); for the "
                "logits alone use FastLanguageModel.for_inference or torch.no_grad"
            )
        with usual_modes():
            layout = Layout.of(input_ids, attention_mask, position_ids, labels)
        if labels is None:
            output = CausalLMOutput(logits=layout.spread(self.logits(layout.batch)))
        else:
            with torch.autocast(self.device.type, enabled=False):
                output = self._losses(layout, num_items_in_batch)
            if not torch.is_grad_enabled():
                unlabelled = input_ids, attention_mask, position_ids
                output["logits"] = LazyLogits(
                    (*input_ids.shape, self.shape.vocab), self.dtype, self.device, lambda: self._unlabelled(*unlabelled)
                )
        return output.to_tuple() if return_dict is False else output

    @torch.no_grad()
    def _unlabelled(self, *inputs: Tensor | None) -> Tensor:
        return self(*inputs).logits

    def _losses(self, layout: Layout, num_items_in_batch: Tensor | int | None) -> CausalLMOutput:
        if torch.is_grad_enabled():
            results = _TokenLosses.apply(self.lora.parameter, self, layout.batch)
        else:
            measured = self.token_results(layout.batch, observe=True)
            results = measured.losses, measured.entropy, measured.top
        losses, entropy, top = (layout.spread(values)[:, :-1] for values in results)
        count = layout.batch.supervised if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(
            loss=losses.sum() / torch.as_tensor(count, device=losses.device).clamp(min=1),
            log_probs=-losses,
            entropy=entropy,
            is_top1=top,
            label_mask=layout.mask[:, :-1].to(self.device),
        )

    @usual_modes()
    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **options: Any) -> Any:
        """Continue each row: token ids [batch, tokens] -> [batch, tokens + new], as transformers' `generate` does.

        The ids are `inputs` or `input_ids`. Options are those of transformers for greedy search and sampling, with
        `attention_mask`, `streamer`, `stop_strings` and `num_return_sequences` among them (docs/engine.md lists them); what is
        not passed comes from `generation_config` and from the model's own. `return_dict_in_generate` returns transformers'
        GenerateDecoderOnlyOutput. Raises SettingError for anything else that would change the result.
        """
        ids = options.pop("input_ids", inputs)
        defaults = self.generation_config.to_dict()
        return generation.generate(self, ids, defaults=defaults, generation_config=generation_config, **options)

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Accepted and ignored: the memory budget decides what is kept and what is recomputed."""

    def gradient_checkpointing_disable(self) -> None:
        """Accepted and ignored: the memory budget decides what is kept and what is recomputed."""

    def enable_input_require_grads(self) -> None:
        """Accepted and ignored: nothing below the adapter has a gradient."""

    def get_input_embeddings(self) -> nn.Module:
        """Raise ModelError: trainers ask for the embeddings for noise (neftune_noise_alpha) and for new tokens."""
        raise ModelError("the embeddings are frozen: neither noise on them nor new tokens are supported")

    def resize_token_embeddings(self, *_: Any, **__: Any) -> None:
        """Raise ModelError: the vocabulary cannot grow."""
        self.get_input_embeddings()

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags that trainers write into a model card."""
        self.model_tags += [tags] if isinstance(tags, str) else tags

    def print_trainable_parameters(self) -> None:
        """Print the number of the adapter's parameters, its projections and its rank."""
        lora = self.lora.describe()
        print(f"trainable params: {lora['parameters']:,} in {lora['projections']} projections, rank {lora['rank']}")

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        """What `.to`, `.cuda`, `.half` and the like call. Raises ModelError where they would move or cast the model."""
        for parameter in self.parameters():
            moved = fn(parameter)
            if (moved.device, moved.dtype) != (parameter.device, parameter.dtype):
                raise ModelError(
                    f"device, dtype: the model was loaded on {self.device} in {self.dtype} and cannot be moved; load it "
                    "with the device and dtype that you want"
                )
        return self


class _TokenLosses(torch.autograd.Function):
    """The losses of the supervised tokens, whose gradient is computed on the way forward."""

    @staticmethod
    def forward(ctx: Any, adapter: Tensor, model: LanguageModel, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        gradients = model.lora.gradients.zero_()
        results = model.results_and_gradients(batch, 1 / max(batch.supervised, 1), observe=True)
        ctx.model, ctx.batch, ctx.mean = model, batch, gradients.clone()
        gradients.zero_()
        ctx.mark_non_differentiable(results.entropy, results.top)
        return results.losses, results.entropy, results.top

    @staticmethod
    def backward(ctx: Any, dlosses: Tensor, *_: None) -> tuple[Tensor, None, None]:
        gradient, ctx.mean = ctx.mean, None
        if gradient is None:
            raise ModelError("backward: the gradient of a loss is handed over once; compute the loss again")
        count = ctx.batch.supervised
        if count and bool((dlosses != dlosses[0]).any()):
            # A loss that weighs its tokens (TRL's "dft"): once more, with these weights.
            gradients = ctx.model.lora.gradients.zero_()
            ctx.model.results_and_gradients(ctx.batch, dlosses)
            gradient.copy_(gradients)
            gradients.zero_()
        elif count:
            gradient *= dlosses[0] * count
        return gradient, None, None
