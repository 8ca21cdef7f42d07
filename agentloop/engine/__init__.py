"""QLoRA on Gemma 1, 2, 3 and 3n with manual backpropagation: `FastLanguageModel` is the door, everything else is behind it."""

from agentloop.settings import prepare_libraries

prepare_libraries()  # before torch, triton and the hub's client read where their caches are

from agentloop.engine.language_model import FastLanguageModel  # noqa: E402

FastModel = FastLanguageModel
"""Unsloth's other name for it, which its Gemma 3n scripts use."""

__all__ = ["FastLanguageModel", "FastModel"]
