"""The arguments of FastLanguageModel, checked: each function returns what it was given in the form that the engine uses,
or raises SettingError in one line that begins with the argument's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from agentloop.engine.lora import ATTENTION, FEEDFORWARD, TARGETS
from agentloop.errors import SettingError

DTYPES = {
    name: getattr(torch, name) for name in ("bfloat16", "float16", "float32", "float64")
}  # fp64 is what the tests compare in
IDLE = {
    "use_gradient_checkpointing", "max_seq_length", "token", "fix_tokenizer", "local_files_only", "trust_remote_code",
    "attn_implementation", "random_state", "temporary_location", "max_shard_size", "maximum_memory_usage",
}  # fmt: skip
"""Arguments of Unsloth's that decide nothing here: memory follows its budget, nothing is downloaded, attention is exact."""
NATURAL = {
    "init_lora_weights": (True,),
    "device_map": (None, "auto", "sequential"),
    "text_only": (True,),
    "task_type": (None, "CAUSAL_LM"),
    "finetune_language_layers": (True,),
    "safe_serialization": (None, True),
    "is_main_process": (True,),
    "save_peft_format": (True,),
}
"""And those of which some values are what happens anyway. Of all others that is what is false."""


def refuse(others: dict[str, Any]) -> None:
    """Arguments that only other implementations of this interface have may be passed where they change nothing."""
    for name, value in others.items():
        if name not in IDLE and not (value in NATURAL[name] if name in NATURAL else not value):
            raise SettingError(f"{name}: {value!r} is not supported")


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
