"""A tiny Gemma of each generation that llama.cpp computes, with an adapter that moves it, loaded by the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from computable import computable_checkpoint

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Family -> its directory, written when it is first asked for."""
    made: dict[str, Path] = {}

    def checkpoint(family: str) -> Path:
        if family not in made:
            made[family] = computable_checkpoint(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return checkpoint


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def trained(checkpoints, cache):
    """The engine's model of a family with a random adapter, and its tokenizer."""

    def load(family: str, directory: Path | None = None, **options) -> tuple[Gemma, object]:
        model, tokenizer = FastLanguageModel.from_pretrained(
            directory or checkpoints(family),
            **{"load_in_4bit": False, "cache_directory": cache, "device": "cpu"} | options,
        )
        model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16, use_rslora=True)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            model.lora.parameters.copy_(0.03 * torch.randn(model.lora.parameters.shape, generator=generator))
        model.lora.refresh()
        return model, tokenizer

    return load
