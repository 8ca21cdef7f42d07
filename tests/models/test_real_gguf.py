"""The pretrained model as a GGUF file, and in again: the same model comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf_exporter import Exporter, TokenizerFile
from safetensors import safe_open
from transformers import AutoConfig

from agentloop.engine import FastLanguageModel
from agentloop.gguf.importing import imported

pytestmark = pytest.mark.real
TEXT = "SELECT name, COUNT(*) FROM orders GROUP BY name ORDER BY 2 DESC; -- what every shop keeps, in every café\n\n"


def loss_of(directory: Path, cache: Path) -> float:
    """By the engine, in nats per token."""
    model, tokenizer = FastLanguageModel.from_pretrained(
        directory, load_in_4bit=False, device="cpu", dtype=torch.float32, cache_directory=cache
    )
    return -model.logprobs(tokenizer(TEXT).input_ids).mean().item()


@pytest.fixture(scope="module")
def loss(gemma, tmp_path_factory) -> float:
    return loss_of(gemma, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("kind", [pytest.param("F16", marks=pytest.mark.slow), "BF16"])
def test_out_and_in_again(gemma, loss, kind, tmp_path):
    file = Exporter(gemma, type=kind, vocabulary=TokenizerFile(gemma)).write(tmp_path / "model.gguf")
    directory = imported(file, tmp_path / "models", cache=tmp_path / "cache")
    file.unlink()
    with (
        safe_open(gemma / "model.safetensors", "pt") as before,
        safe_open(directory / "model.safetensors", "pt") as now,
    ):
        assert set(before.keys()) == set(now.keys())
        for name in before.keys():
            original = before.get_tensor(name)
            if kind == "F16" and original.dim() > 1:
                original = original.half().bfloat16()  # its smallest numbers are coarser than bf16's
            assert torch.equal(now.get_tensor(name), original), name
    tokenizers = [json.loads((each / "tokenizer.json").read_text()) for each in (gemma, directory)]
    assert tokenizers[0] == tokenizers[1]
    configurations = [AutoConfig.from_pretrained(each).to_dict() for each in (gemma, directory)]
    assert configurations[0] | {"_name_or_path": ""} == configurations[1] | {"_name_or_path": ""}
    assert 1 < loss < 6
    again = loss_of(directory, tmp_path / "cache")
    assert again == (loss if kind == "BF16" else pytest.approx(loss, rel=1e-4))
