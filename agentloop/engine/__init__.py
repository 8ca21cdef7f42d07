"""QLoRA on Gemma 1, 2, 3 and 3n with manual backpropagation: `FastLanguageModel` is the door, everything else is behind it."""

from agentloop.engine.language_model import FastLanguageModel

FastModel = FastLanguageModel
"""Unsloth's other name for it, which its Gemma 3n scripts use."""

__all__ = ["FastLanguageModel", "FastModel"]
