"""What `generate` is asked for, in transformers' words: read, checked, and made into transformers' own processors.

An option that was passed wins, also where it is None; then come `generation_config`, the model's generation_config.json and
transformers' defaults. What would change the result and is not done here is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentloop.errors import SettingError

DEFAULTS: dict[str, Any] = {"do_sample": False, "top_k": 50, "max_length": None, "num_return_sequences": 1}
"""transformers' own, where None would mean something else."""
NEW_TOKENS = 20
"""Where nothing limits the length; transformers' default."""
NUMBERS = {
    "temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "max_time",
}  # fmt: skip
WHOLE = {
    "max_new_tokens": 1, "max_length": 1, "min_length": 0, "min_new_tokens": 0, "num_return_sequences": 1, "top_k": 0,
    "no_repeat_ngram_size": 0,
}  # fmt: skip
"""Options that are whole numbers, and the least."""
OTHERS = {
    "do_sample", "stop_strings", "tokenizer", "eos_token_id", "pad_token_id", "bad_words_ids", "suppress_tokens",
    "begin_suppress_tokens", "renormalize_logits", "logits_processor", "stopping_criteria", "streamer",
    "return_dict_in_generate", "output_scores", "output_logits",
}  # fmt: skip
IDLE = {
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "bos_token_id", "decoder_start_token_id", "early_stopping", "length_penalty", "synced_gpus", "token_type_ids",
    "transformers_version", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "assistant_early_exit", "prefill_chunk_size", "low_memory",
    "max_matching_ngram_size", "continuous_batching_config", "is_assistant",
}  # fmt: skip
"""Options that change no token: how transformers caches and compiles, and what only beams or assistants read."""
NEUTRAL: dict[str, Any] = {
    "num_beams": 1, "num_beam_groups": 1, "guidance_scale": 1, "encoder_repetition_penalty": 1, "logits_to_keep": 1,
}  # fmt: skip
"""Of options that are not done here, the value that asks for nothing; for all others that is what is false."""


@dataclass(frozen=True)
class GenerationOptions:
    """One call of `generate`, checked."""

    new_tokens: int
    """At most; stopping criteria may end earlier."""
    copies: int
    """Sequences for each prompt."""
    sample: bool
    processors: Callable[[Tensor, Tensor], Tensor]
    """(ids [rows, tokens], logits [rows, vocab]) -> scores [rows, vocab]."""
    finished: Callable[[Tensor, Any], Tensor]
    """(ids [rows, tokens], scores) -> bool [rows]: the sequence ends with its last token."""
    ends: tuple[int, ...]
    """Tokens that end a sequence, which is then filled up with `pad`; without any it goes on beside the others."""
    pad: int
    padding: int | None
    """Without a mask, prompt tokens that are left out."""
    streamer: Any
    as_dict: bool
    scores: bool
    logits: bool


def read_options(
    options: Mapping[str, Any], model_defaults: Mapping[str, Any], *, prompt: int, vocab: int, device: torch.device
) -> GenerationOptions:
    """Return the options of a call whose prompts are `prompt` tokens wide. Raises SettingError."""
    values = _merged(options, model_defaults)
    _refuse(values)
    for name, value in values.items():
        if name in NUMBERS and value is not None:
            values[name] = _number(name, value)
        if name in WHOLE and value is not None and (type(value) is not int or value < WHOLE[name]):
            raise SettingError(f"{name}: {value!r} is not a whole number of at least {WHOLE[name]}")
    for name in ("do_sample", "return_dict_in_generate", "output_scores", "output_logits", "renormalize_logits"):
        if not isinstance(values.get(name), bool | None):
            raise SettingError(f"{name}: {values[name]!r} is neither True nor False")
    sample, copies = bool(values["do_sample"]), values["num_return_sequences"] or 1
    if copies > 1 and not sample:
        raise SettingError(f"num_return_sequences: {copies} without do_sample would be the same sequence each time")
    ends = _ids("eos_token_id", values.get("eos_token_id"), vocab)
    pads = _ids("pad_token_id", values.get("pad_token_id"), vocab)
    as_dict = bool(values.get("return_dict_in_generate"))
    return GenerationOptions(
        new_tokens=_new_tokens(values, prompt),
        copies=copies,
        sample=sample,
        processors=_processors(values, ends, prompt=prompt, device=device),
        finished=_criteria(values, ends, device=device),
        ends=tuple(ends),
        pad=(pads or ends or [0])[0],
        padding=pads[0] if pads and pads[0] not in ends else None,
        streamer=values.get("streamer"),
        as_dict=as_dict,
        scores=as_dict and bool(values.get("output_scores")),
        logits=as_dict and bool(values.get("output_logits")),
    )


def _merged(options: Mapping[str, Any], model_defaults: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import GenerationConfig  # takes seconds

    passed = dict(options)
    given = passed.pop("generation_config", None)
    values, own = dict(DEFAULTS), vars(GenerationConfig())
    for source in (model_defaults, {} if given is None else given.to_dict()):
        # What else a file holds means nothing to transformers either.
        values |= {name: value for name, value in source.items() if value is not None and name in own}
    return values | passed


def _refuse(values: Mapping[str, Any]) -> None:
    known = NUMBERS | WHOLE.keys() | OTHERS | IDLE
    for name, value in values.items():
        if name in known or name.startswith("_"):
            continue
        if value == NEUTRAL[name] if name in NEUTRAL and value else not _asks(value):
            continue
        raise SettingError(f"{name}: {_short(value)} is not an option of generate; serve the model to use it")


def _asks(value: Any) -> bool:
    return isinstance(value, Tensor) or bool(value)


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(f"{name}: {value!r} is not a number")
    return float(value)


def _ids(name: str, value: Any, vocab: int) -> list[int]:
    """One id or several, as a list."""
    several = value.tolist() if isinstance(value, Tensor) else value
    several = [several] if isinstance(several, int) else list(several or ())
    for each in several:
        if type(each) is not int or not 0 <= each < vocab:
            raise SettingError(f"{name}: {each!r} is not a token id from 0 to {vocab - 1}")
    return several


def _new_tokens(values: Mapping[str, Any], prompt: int) -> int:
    if values.get("max_new_tokens") is not None:
        return values["max_new_tokens"]
    if (longest := values.get("max_length")) is None:
        return NEW_TOKENS
    if longest <= prompt:
        raise SettingError(f"max_length: {longest} leaves nothing to generate, the prompt has {prompt} tokens")
    return longest - prompt


def _made(name: str, make: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """A processor or criterion of transformers'; what it does not accept is the option's fault."""
    try:
        return make(*arguments, **named)
    except (ValueError, TypeError, KeyError) as error:
        raise SettingError(f"{name}: {' '.join(str(error).split())}") from None


def _processors(values: Mapping[str, Any], ends: list[int], *, prompt: int, device: torch.device) -> Any:
    """In the order of transformers' `generate`."""
    from transformers.generation import logits_process as these  # takes seconds

    end = torch.tensor(ends, device=device) if ends else None
    made = []

    def add(name: str, make: Callable[..., Any], *arguments: Any, off: Any = 0, **named: Any) -> None:
        if (value := values.get(name)) is not None and value != off:
            made.append(_made(name, make, *arguments, value, **named))

    add("repetition_penalty", these.RepetitionPenaltyLogitsProcessor, off=1)
    add("no_repeat_ngram_size", these.NoRepeatNGramLogitsProcessor)
    if values.get("bad_words_ids") is not None:
        made.append(_made("bad_words_ids", these.NoBadWordsLogitsProcessor, values["bad_words_ids"], end))
    if end is not None:
        if values.get("min_length"):
            made.append(these.MinLengthLogitsProcessor(values["min_length"], end, device=device))
        if values.get("min_new_tokens"):
            least = values["min_new_tokens"]
            made.append(these.MinNewTokensLengthLogitsProcessor(prompt, least, end, device=device))
    add("suppress_tokens", these.SuppressTokensLogitsProcessor, device=device)
    if values.get("begin_suppress_tokens") is not None:
        suppressed = values["begin_suppress_tokens"]
        make = these.SuppressTokensAtBeginLogitsProcessor
        made.append(_made("begin_suppress_tokens", make, suppressed, prompt, device=device))
    made = _with_own(made, values.get("logits_processor"))
    if values["do_sample"]:
        add("temperature", these.TemperatureLogitsWarper, off=1)
        add("top_k", these.TopKLogitsWarper)
        add("top_p", these.TopPLogitsWarper, off=1)
        add("min_p", these.MinPLogitsWarper, off=None)
        add("typical_p", these.TypicalLogitsWarper, off=1)
        add("epsilon_cutoff", these.EpsilonLogitsWarper)
        add("eta_cutoff", these.EtaLogitsWarper, device=device)
    if values.get("renormalize_logits"):
        made.append(these.LogitNormalization())
    return these.LogitsProcessorList(made)


def _criteria(values: Mapping[str, Any], ends: list[int], *, device: torch.device) -> Any:
    from transformers.generation import stopping_criteria as these

    made: list[Any] = []
    if values.get("max_time") is not None:
        made.append(these.MaxTimeCriteria(values["max_time"]))
    if values.get("stop_strings"):
        if values.get("tokenizer") is None:
            raise SettingError("stop_strings: pass the tokenizer as well, as tokenizer=")
        stops = values["stop_strings"]
        made.append(_made("stop_strings", these.StopStringCriteria, values["tokenizer"], stops))
    if ends:
        made.append(these.EosTokenCriteria(torch.tensor(ends, device=device)))
    criteria = these.StoppingCriteriaList(_with_own(made, values.get("stopping_criteria")))
    return criteria if criteria else lambda ids, scores: torch.zeros(len(ids), dtype=torch.bool, device=device)


def _with_own(made: list[Any], own: Any) -> list[Any]:
    """The caller's processors or criteria as well; one of the same class takes the place of ours."""
    own = list(own or ())
    classes = {type(each): each for each in reversed(own)}
    whole = [classes.get(type(each), each) for each in made]
    return whole + [each for each in own if not any(each is there for there in whole)]
