"""LoRA training on Gemma 1, 2, 3 and 3n with manual backpropagation; the base is in NF4 (QLoRA) or in 16 bit.

`FastLanguageModel` loads a model and gives it an adapter, `agentloop.engine.batch` packs the rows, and
`agentloop.engine.optimizer` makes the steps. With TRL's trainers and on its own: docs/engine.md.
"""

from typing import Any

from agentloop.settings import prepare_libraries

prepare_libraries()  # before torch, triton and the hub's client read where their caches are

from agentloop.engine.api.language_model import FastLanguageModel, is_bfloat16_supported  # noqa: E402

FastModel = FastLanguageModel
"""`FastLanguageModel` by the name that Unsloth's Gemma 3n scripts use."""

_TRL = ("SFTConfig", "SFTTrainer", "TrainingArguments", "old_spellings")


def __getattr__(name: str) -> Any:
    """Import TRL, which takes seconds, where its names are asked for."""
    if name not in _TRL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentloop.engine import trl

    return getattr(trl, name)


__all__ = ["FastLanguageModel", "FastModel", "is_bfloat16_supported"]
