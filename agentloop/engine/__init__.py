"""QLoRA on Gemma 3n with manual backpropagation: `FastLanguageModel` is the door, everything else is behind it."""

from agentloop.engine.language_model import FastLanguageModel

__all__ = ["FastLanguageModel"]
