"""The model as transformers' and TRL's trainers want it: an nn.Module with a config, one parameter and a loss.

The parameter is the flat LoRA buffer itself: one tensor for the optimizer, for clipping and for a data-parallel
all-reduce. `forward` packs the batch and runs a whole step of the engine, gradient included; autograd gets one node, whose
backward hands that gradient over. Frozen weights are no parameters: they stay where they were loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from agentloop.engine import generation
from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop.errors import ModelError, SettingError

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from agentloop.engine.model import Gemma

IMPLIED = {
    "use_cache", "return_dict", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx",
    "fused_lm_head", "token_type_ids",
}  # fmt: skip
"""Inputs that say nothing new: where sequences start is read from position_ids, and nothing is cached."""


class CausalLMOutput(dict):
    """Result of `forward`, by key and by attribute, as transformers' outputs are.

    With labels it holds everything but the logits, which never exist all at once; without labels only the logits. What is
    None has no key.
    """

    loss: Tensor | None = None
    """[] cross-entropy in nats, mean over the labels."""
    logits: Tensor | None = None
    """[batch, tokens, vocab] logits of the next token."""
    log_probs: Tensor | None = None
    """[batch, tokens - 1] fp32: log probability of each label given what stands before it; 0 where there is none."""
    entropy: Tensor | None = None
    """[batch, tokens - 1] entropy in nats of the distribution that the label is taken from."""
    is_top1: Tensor | None = None
    """[batch, tokens - 1] bool: the label is the most probable token."""
    label_mask: Tensor | None = None
    """[batch, tokens - 1] bool: there is a label."""

    def __init__(self, *items: Any, **values: Tensor | None) -> None:
        super().__init__(*items, **{name: value for name, value in values.items() if value is not None})
        self.__dict__.update(self)


class TrainerFacade(nn.Module):
    """Base class of the engine's model, with everything that only trainers ask for."""

    main_input_name = "input_ids"
    loss_type = "ForCausalLM"
    """The loss shifts the labels: the trainer then counts num_items_in_batch rightly."""
    accepts_loss_kwargs = True

    def __init__(self, directory: Path | None) -> None:
        super().__init__()
        self.directory = directory
        """Directory of the base model; None for a model without files."""
        self.model_tags: list[str] = []

    @cached_property
    def config(self) -> Any:
        """transformers' configuration of the base model.

        It names FlashAttention 2, from which TRL concludes that packed sequences are kept apart.
        """
        from transformers import AutoConfig  # takes seconds

        return AutoConfig.from_pretrained(self.directory, attn_implementation="flash_attention_2")

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """transformers' defaults for `generate`, from the base model's directory."""
        from transformers import GenerationConfig

        if (self.directory / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(self.directory)
        return GenerationConfig.from_model_config(self.config)

    def __call__(self, *args: Any, **inputs: Any) -> CausalLMOutput:
        # TRL lays a head of its own over `forward` of the instance, accelerate a cast; neither has anything to add.
        return type(self).forward(self, *args, **inputs)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **others: Any,
    ) -> CausalLMOutput:
        """Return loss and per-token results where there are `labels`, else the logits.

        All inputs are [batch, tokens]. `labels` are not shifted, and -100 where a token is not trained on. `attention_mask` is
        0 where padded. A sequence starts in each row, and wherever `position_ids` do not go on from the token before. The
        loss is the mean over the labels, or their sum divided by `num_items_in_batch`. Raises SettingError for an input that
        would change the result and is not supported.
        """
        for name, value in others.items():
            if name not in IMPLIED and value is not None and value is not False:
                raise SettingError(f"{name}: not an input that this model supports")
        if labels is None and self.training and torch.is_grad_enabled():
            raise SettingError(
                "labels: a loss made from logits has no gradient here (label_smoothing_factor, compute_loss_func); for the "
                "logits alone use FastLanguageModel.for_inference or torch.no_grad"
            )
        layout = _Layout.of(input_ids, attention_mask, position_ids, labels)
        with torch.autocast(self.device.type, enabled=False):
            if labels is None:
                return CausalLMOutput(logits=layout.spread(self.logits(layout.batch)))
            if torch.is_grad_enabled():
                self.lora.refresh()  # the optimizer changes the parameter alone
                results = _TokenLosses.apply(self.adapter, self, layout.batch)
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

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, **options: Any) -> Any:
        """Continue each row: token ids [batch, tokens] -> [batch, tokens + new], as transformers' `generate` does.

        The ids are `inputs` or `input_ids`. Options are those of transformers for greedy search and sampling, with
        `attention_mask`, `streamer`, `stop_strings` and `num_return_sequences` among them (docs/engine.md lists them); what is
        not passed comes from `generation_config` and from the model's own. `return_dict_in_generate` returns transformers'
        GenerateDecoderOnlyOutput. Raises SettingError for anything else that would change the result.
        """
        ids = options.pop("input_ids", inputs)
        return generation.generate(self, ids, generation_config=generation_config, **options)

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
    def forward(ctx: Any, adapter: Tensor, model: Gemma, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
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


@dataclass(frozen=True)
class _Layout:
    """A batch as the trainer made it, and the packed batch that the engine computes."""

    batch: PackedBatch
    mask: Tensor
    """[rows, tokens] bool on the CPU: where a packed row with a label belongs."""

    @classmethod
    def of(
        cls, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, labels: Tensor | None
    ) -> _Layout:
        """Without labels every token counts as labelled."""
        ids = input_ids.cpu()
        real = torch.ones_like(ids, dtype=torch.bool)
        if attention_mask is not None:
            if attention_mask.shape != ids.shape:
                raise SettingError(f"attention_mask: has the shape {list(attention_mask.shape)}, not {list(ids.shape)}")
            real = attention_mask.cpu() != 0
        targets = torch.full_like(ids, IGNORED)
        if labels is None:
            targets[:] = 0
        else:
            targets[:, :-1] = labels.cpu()[:, 1:]
        places = torch.arange(ids.shape[1]) if position_ids is None else position_ids.cpu()
        places, row = places.expand_as(ids)[real], torch.arange(len(ids))[:, None].expand_as(ids)[real]
        begins = torch.ones(len(places), dtype=torch.bool)
        begins[1:] = (row.diff() != 0) | (places.diff() != 1)
        starts = torch.nonzero(begins).flatten()
        lengths = torch.cat([starts, torch.tensor([len(places)])]).diff()
        batch = PackedBatch(
            ids[real],
            targets[real],
            torch.arange(len(places)) - starts.repeat_interleave(lengths),
            torch.cat([starts, torch.tensor([len(places)])]).to(torch.int32),
            int(lengths.max()) if len(lengths) else 0,
        )
        return cls(batch, real & (targets != IGNORED))

    def spread(self, values: Tensor) -> Tensor:
        """[supervised, …] -> [rows, tokens, …], 0 elsewhere; differentiable."""
        where = torch.nonzero(self.mask.flatten()).flatten().to(values.device)
        whole = values.new_zeros(self.mask.numel(), *values.shape[1:])
        return whole.index_copy(0, where, values).unflatten(0, self.mask.shape)
