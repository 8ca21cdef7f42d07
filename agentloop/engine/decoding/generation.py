"""Sampling by the trained model itself, as `generate` of transformers does it. Who has many requests serves the model
(docs/serving.md)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agentloop.engine.decoding.decoder import Decoder
from agentloop.engine.decoding.graph import WORTH_RECORDING, RecordedStep
from agentloop.engine.decoding.options import GenerationOptions, read_options
from agentloop.engine.step.model import LanguageModel
from agentloop.errors import SettingError


def generate(
    model: LanguageModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    defaults: dict[str, Any],
    **options: Any,
) -> Any:
    """[batch, tokens] -> [batch * copies, tokens + new], filled up with the pad token behind a sequence that has ended.

    Tokens that `attention_mask` leaves out are not read; `defaults` are the model's own options, for those that are not passed.
    With `return_dict_in_generate` transformers' GenerateDecoderOnlyOutput. Raises SettingError for an option or an input that
    does not fit.
    """
    chosen = read_options(options, defaults, prompt=_width(input_ids), vocab=model.shape.vocab, device=model.device)
    prompts = _prompts(model, input_ids, attention_mask, chosen)
    new = _new_tokens(model, max(map(len, prompts)), chosen, options)
    if chosen.streamer is not None:
        chosen.streamer.put(input_ids.cpu())
    decoder = Decoder(model, prompts, new=new, copies=chosen.copies)
    start = input_ids.to(model.device).repeat_interleave(chosen.copies, 0)
    result = _continued(model, decoder, start, new, chosen)
    if chosen.streamer is not None:
        chosen.streamer.end()
    return result


def _new_tokens(model: LanguageModel, prompt: int, options: GenerationOptions, passed: dict[str, Any]) -> int:
    """At most what was asked for. What nobody asked for ends where the model does."""
    asked = [name for name in ("max_new_tokens", "max_length", "generation_config") if passed.get(name) is not None]
    room = model.max_seq_length - prompt
    if room < 1 or (asked and options.new_tokens > room):
        new = options.new_tokens if asked else 1
        raise SettingError(
            f"{(asked or ['max_seq_length'])[0]}: {prompt} tokens of the prompt and {new} new ones are more than "
            f"{model.max_seq_length}, the max_seq_length for which the model was loaded"
        )
    return min(options.new_tokens, room)


def _continued(model: LanguageModel, decoder: Decoder, start: Tensor, new: int, options: GenerationOptions) -> Any:
    rows, width = start.shape
    ids = start.new_zeros(rows, width + new)
    ids[:, :width] = start
    positions = torch.tensor(decoder.lengths, dtype=torch.int32, device=model.device)
    longest = max(decoder.lengths)
    record = model.graphs and decoder.recordable and new > WORTH_RECORDING
    step = RecordedStep(decoder) if record else decoder.step
    going = torch.ones(rows, dtype=torch.bool, device=model.device)
    all_logits, all_scores = [], []
    logits = decoder.read()
    for end in range(width + 1, width + new + 1):
        logits = logits.float()
        if options.logits:
            all_logits.append(logits.clone())
        scores = options.processors(ids[:, : end - 1], logits)
        if options.scores:
            all_scores.append(scores.clone())
        if options.sample:
            chosen = torch.multinomial(scores.softmax(-1), 1).squeeze(1)
        else:
            chosen = scores.argmax(-1)
        if options.ends:
            chosen = torch.where(going, chosen, options.pad)
        ids[:, end - 1] = chosen
        if options.streamer is not None:
            options.streamer.put(chosen.cpu())
        going &= ~options.finished(ids[:, :end], tuple(all_scores) or None)
        if end == width + new or not going.any():
            break
        logits = step(chosen, positions, longest)
        positions, longest = positions + 1, longest + 1
    return _result(ids[:, :end], options, all_scores, all_logits)


def _result(ids: Tensor, options: GenerationOptions, scores: list[Tensor], logits: list[Tensor]) -> Any:
    if not options.as_dict:
        return ids
    from transformers.generation import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(
        sequences=ids,
        scores=tuple(scores) if options.scores else None,
        logits=tuple(logits) if options.logits else None,
    )


def _width(input_ids: Any) -> int:
    if (
        not isinstance(input_ids, Tensor)
        or input_ids.dim() != 2
        or input_ids.is_floating_point()
        or not input_ids.numel()
    ):
        what = (
            f"{list(input_ids.shape)} {input_ids.dtype}" if isinstance(input_ids, Tensor) else type(input_ids).__name__
        )
        raise SettingError(f"input_ids: {what} is not a tensor of token ids [batch, tokens]")
    return input_ids.shape[1]


def _prompts(
    model: LanguageModel, input_ids: Tensor, attention_mask: Tensor | None, options: GenerationOptions
) -> list[list[int]]:
    """The real tokens of each row."""
    ids = input_ids.cpu()
    if outside := ids[(ids < 0) | (ids >= model.shape.vocab)].tolist():
        raise SettingError(f"input_ids: {outside[0]} is not a token id from 0 to {model.shape.vocab - 1}")
    if attention_mask is None:
        real = torch.ones_like(ids, dtype=torch.bool) if options.padding is None else ids != options.padding
    elif attention_mask.shape != ids.shape:
        raise SettingError(f"attention_mask: has the shape {list(attention_mask.shape)}, not {list(ids.shape)}")
    else:
        real = attention_mask.cpu() != 0
    prompts = [row[kept].tolist() for row, kept in zip(ids, real, strict=True)]
    if not all(prompts):
        raise SettingError(f"attention_mask: it leaves nothing of row {[not prompt for prompt in prompts].index(True)}")
    return prompts
