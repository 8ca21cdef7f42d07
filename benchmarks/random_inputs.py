"""Random prompts and LoRA adapters for the serving benchmarks, the same ones in every run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from agentloop.engine import FastLanguageModel


def vocabulary_of(checkpoint: Path) -> int:
    """Number of tokens that have per-layer embeddings, or of all tokens where the model has no such embeddings."""
    config = json.loads((checkpoint / "config.json").read_text())
    return config.get("vocab_size_per_layer_input", config["vocab_size"])


def random_prompts(vocabulary: int, count: int, length: int) -> list[list[int]]:
    """`count` prompts of `length` token ids: <bos>, then anything after the special tokens."""
    draw = random.Random(0)
    return [[2, *(draw.randrange(6, vocabulary) for _ in range(length - 1))] for _ in range(count)]


def write_adapters(checkpoint: Path, directories: Sequence[Path], *, rank: int, cache: Path) -> None:
    """Write a different adapter, random in A and in B, into each directory that is not there yet.

    The values are exact in bf16, so that every implementation computes with the same ones.
    """
    if all(directory.is_dir() for directory in directories):
        return
    model, _ = FastLanguageModel.from_pretrained(checkpoint, load_in_4bit=False, cache_directory=cache)
    for seed, directory in enumerate(directories):
        FastLanguageModel.get_peft_model(model.unload(), r=rank, lora_alpha=2 * rank, random_state=3407 + seed)
        generator = torch.Generator().manual_seed(seed)
        for name, view in model.lora.named().items():
            if "lora_B" in name:
                view.copy_(0.02 * torch.randn(view.shape, generator=generator))
        model.lora.parameters.copy_(model.lora.parameters.bfloat16())
        model.lora.refresh()
        if not directory.is_dir():
            model.save_pretrained(directory)
