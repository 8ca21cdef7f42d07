"""The arguments of FastLanguageModel, checked: each function returns what it was given in the form that the engine uses,
or raises SettingError in one line that begins with the argument's name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agentloop.engine.lora.buffer import ATTENTION, FEEDFORWARD, TARGETS
from agentloop.errors import SettingError

DTYPES = {
    name: getattr(torch, name) for name in ("bfloat16", "float16", "float32", "float64")
}  # fp64 is what the tests compare in
IDLE = {
    "use_gradient_checkpointing", "max_seq_length", "token", "fix_tokenizer", "local_files_only", "trust_remote_code",
    "attn_implementation", "random_state", "temporary_location", "max_shard_size", "maximum_memory_usage",
    "gpu_memory_utilization", "max_lora_rank", "disable_log_stats", "float8_kv_cache", "unsloth_tiled_mlp", "fullgraph",
    "unsloth_force_compile", "low_cpu_mem_usage",
}  # fmt: skip
"""Arguments of Unsloth's that decide nothing here: memory follows its budget, nothing is downloaded, attention is exact,
nothing is compiled by torch, and vLLM is a process of its own."""
NATURAL = {
    "init_lora_weights": (True,),
    "device_map": (None, "auto", "sequential"),
    "text_only": (True,),
    "task_type": (None, "CAUSAL_LM"),
    "layers_pattern": (None, "layers"),
    "finetune_language_layers": (True,),
    "safe_serialization": (None, True),
    "is_main_process": (True,),
    "save_peft_format": (True,),
}
"""And those of which some values are what happens anyway. Of all others that is what is false."""
REASONS = {
    "full_finetuning": "the base stays frozen, and an adapter is trained",
    "load_in_8bit": "the base is held in 4 bit or in 16 bit",
    "load_in_fp8": "the base is held in 4 bit or in 16 bit",
    "fast_inference": "vLLM serves an adapter in a process of its own (docs/serving.md)",
    "modules_to_save": "embeddings and head are frozen, and shared with the layers' kernels",
    "target_parameters": "there are no experts to adapt",
    "resize_model_vocab": "the embeddings are frozen",
    "rope_scaling": "positions are as config.json has them; max_seq_length may go beyond",
    "qat_scheme": "the base is quantised once, before training",
    "return_logits": "logits do not exist in training",
    "finetune_language_layers": "there is nothing else to train",
    "text_only": "the language model alone is loaded",
    "device_map": "the model is on one device, which `device` names",
}
"""Why something is refused, where that is not plain."""


def refuse(others: dict[str, Any]) -> None:
    """Arguments that only other implementations of this interface have may be passed where they change nothing."""
    for name, value in others.items():
        if name not in IDLE and not (value in NATURAL[name] if name in NATURAL else not value):
            reason = f": {REASONS[name]}" if name in REASONS else ""
            raise SettingError(f"{name}: {value!r} is not supported{reason}")


def towers(asked: dict[str, Any], *, loaded: bool) -> None:
    """Towers, by the arguments that ask to train them, are no part of this model; `loaded`: the base has none either."""
    for name, value in asked.items():
        if value and not loaded:
            raise SettingError(f"{name}: {value!r} is not supported: {REASONS['text_only']}")


@dataclass(frozen=True)
class FourBits:
    """NF4 as transformers' BitsAndBytesConfig asks for it, with what it says beside that."""

    dtype: Any
    """Dtype of the computation; None where the configuration leaves it open."""
    patterns: tuple[str, ...]
    """llm_int8_skip_modules."""

    def skipped(self, linears: Sequence[str]) -> set[str]:
        """Return those of the layers' linears that stay in 16 bit.

        As in transformers, a pattern counts from the start of a module's name or from its end; in a multimodal model's
        configuration it may begin with the language model's place there.
        """
        patterns = [pattern.replace("language_model.", "") for pattern in self.patterns]
        names = {linear: f"model.{linear}" for linear in linears}
        return {
            linear
            for linear, name in names.items()
            if any(re.match(pattern, name) or name.endswith(pattern) for pattern in patterns)
        }


def bitsandbytes(config: Any) -> FourBits | None:
    """Return what a quantization_config asks for; None where there is none."""
    if config is None:
        return None
    given = config if isinstance(config, dict) else config.to_dict() if hasattr(config, "to_dict") else {}
    wanted = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    for name, value in wanted.items():
        if given.get(name) != value:
            raise SettingError(
                f"quantization_config: {name} {given.get(name)!r} is not supported, only bitsandbytes' NF4 with double "
                "quantisation"
            )
    compute = given.get("bnb_4bit_compute_dtype")
    named = compute.removeprefix("torch.") if isinstance(compute, str) else compute
    # BitsAndBytesConfig says float32 where nobody chose: the device decides then, as it does without a configuration
    return FourBits(
        None if named in ("float32", torch.float32) else named, tuple(given.get("llm_int8_skip_modules") or ())
    )


def whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingError(f"{name}: {value!r} is not a whole number of at least {least}")
    return value


def positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise SettingError(f"{name}: {value!r} is not a number above 0")
    return value


def budget(value: Any) -> float | Literal["auto"]:
    """GiB, or "auto"."""
    return value if value == "auto" else positive("memory_budget", value)


def linears(name: str, value: Any, known: Sequence[str]) -> None:
    """Names of linears inside the layers."""
    if isinstance(value, str) or (unknown := [each for each in value if each not in known]):
        wrong = value if isinstance(value, str) else unknown[0]
        raise SettingError(f"{name}: {wrong!r} is no linear of this model, as {known[0]} is")


def dtype(value: Any) -> torch.dtype | None:
    """Return the dtype that was asked for; None where the device decides."""
    chosen = DTYPES.get(value, value) if isinstance(value, str) else value
    if chosen is not None and chosen not in DTYPES.values():
        raise SettingError(f"dtype: {value!r} is none of {', '.join(DTYPES)}")
    return chosen


def device(value: Any) -> torch.device | None:
    """Return the device that was asked for; None where the process decides. Counting the CUDA devices does not wake CUDA up."""
    try:
        chosen = None if value is None else torch.device(value)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")
    if chosen and chosen.type not in ("cpu", "cuda"):
        raise SettingError(f"device: {value!r} is neither 'cpu' nor 'cuda'")
    if chosen and chosen.type == "cuda" and (chosen.index or 0) >= (count := torch.cuda.device_count()):
        raise SettingError(f"device: there is no {str(chosen)!r} on this machine; torch sees {count} CUDA devices")
    return chosen


def targets(names: Any, *, attention: bool, feedforward: bool) -> tuple[str, ...]:
    """The projections that carry LoRA: those in `names` (None, "all-linear": all) that are not switched off."""
    chosen = TARGETS if names is None or names == "all-linear" else names
    if not isinstance(chosen, list | tuple | set | frozenset) or not chosen:
        raise SettingError(f"target_modules: {names!r} is neither a list of names nor 'all-linear'")
    if unknown := [name for name in chosen if name not in TARGETS]:
        raise SettingError(f"target_modules: {unknown[0]} cannot carry LoRA, only {', '.join(TARGETS)}")
    allowed = (ATTENTION if attention else ()) + (FEEDFORWARD if feedforward else ())
    if not (kept := tuple(name for name in chosen if name in allowed)):
        raise SettingError("finetune_attention_modules, finetune_mlp_modules: they leave no module to train")
    return kept
