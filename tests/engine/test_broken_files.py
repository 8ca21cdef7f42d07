"""What others wrote and is broken, or is not what the engine computes: one line that names the file and what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from agentloop.cli.app import app
from agentloop.engine import FastLanguageModel
from agentloop.errors import AdapterError, AgentloopError, ModelError

Spoil = Callable[[Path], None]


def one_line(error: AgentloopError) -> str:
    assert "\n" not in str(error)
    return str(error)


def change(name: str, value: Any, file: str = "config.json") -> Spoil:
    def spoil(directory: Path) -> None:
        (directory / file).write_text(json.dumps(json.loads((directory / file).read_text()) | {name: value}))

    return spoil


def cut(name: str) -> Spoil:
    """The first 100 bytes of a file."""

    def spoil(directory: Path) -> None:
        (directory / name).write_bytes((directory / name).read_bytes()[:100])

    return spoil


def remove(*names: str) -> Spoil:
    def spoil(directory: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return spoil


def trainers(directory: Path) -> None:
    """What transformers' Trainer saves of a model that it does not know."""
    remove("config.json")(directory)
    torch.save({}, directory / "training_args.bin")


@pytest.fixture
def copied(checkpoint, tmp_path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "model")


CONFIGURATIONS = [
    (cut("config.json"), "config.json: not to be read"),
    (lambda directory: (directory / "config.json").write_text("[]"), "config.json: not a JSON object"),
    (change("num_hidden_layers", 4), "intermediate_size"),
    (change("layer_types", ["sliding_attention"] * 4), "layer_types"),
    (change("layer_types", ["linear_attention"] * 5), "linear_attention"),
    (change("intermediate_size", [384] * 4), "intermediate_size"),
    (change("activation_sparsity_pattern", [0.95]), "activation_sparsity"),
    (change("final_logit_softcapping", None), "final_logit_softcapping"),
    (change("num_attention_heads", "4"), "num_attention_heads '4'"),
    (change("vocab_size", 10**30), "vocab_size 1000"),
    (change("intermediate_size", [384, -1, 384, 384, 384]), "intermediate_size -1 is not a whole number"),
    (change("model_type", {"type": "gemma"}), "model_type {'type': 'gemma'} is not supported"),
    (change("hidden_size", 256), "[128"),
    (change("hidden_size", 100), "[128"),
    (change("rope_parameters", {"sliding_attention": 3, "full_attention": 3}), "config.json: "),
    (change("rope_parameters", [1]), "rope_parameters [1]"),
    (change("rms_norm_eps", "1e-6"), "rms_norm_eps '1e-6'"),
    (cut("model.safetensors"), "model.safetensors: not to be read as safetensors"),
]


@pytest.mark.parametrize(("spoil", "named"), CONFIGURATIONS)
def test_broken_models(copied, tmp_path, spoil, named):
    spoil(copied)
    with pytest.raises(ModelError) as error:
        FastLanguageModel.from_pretrained(copied, cache_directory=tmp_path / "cache")
    assert str(copied) in one_line(error.value) and named in str(error.value)
    asked = CliRunner().invoke(app, ["doctor", "--train", str(copied)]).exception
    assert isinstance(asked, ModelError) and str(asked) == str(error.value)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (remove("tokenizer.json"), "no tokenizer (tokenizer.json or tokenizer.model)"),
        (cut("tokenizer.json"), "tokenizer.json: not to be read"),
        (trainers, "model.save_pretrained"),
    ],
)
def test_models_that_only_training_needs_more_of(copied, tmp_path, spoil, named):
    spoil(copied)
    with pytest.raises(ModelError) as error:
        FastLanguageModel.from_pretrained(copied, cache_directory=tmp_path / "cache")
    assert named in one_line(error.value)


@pytest.fixture(scope="module")
def base(checkpoint, cache):
    return FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)[0]


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    FastLanguageModel.get_peft_model(base, r=8).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def reshape(name: str, shape: tuple[int, ...]) -> Spoil:
    def spoil(directory: Path) -> None:
        file = directory / "adapter_model.safetensors"
        tensors = load_file(file)
        full = next(each for each in tensors if name in each)
        save_file(tensors | {full: torch.zeros(shape)}, file)

    return spoil


def fill(name: str, value: float) -> Spoil:
    def spoil(directory: Path) -> None:
        file = directory / "adapter_model.safetensors"
        tensors = load_file(file)
        full = next(each for each in tensors if name in each)
        save_file(tensors | {full: torch.full_like(tensors[full], value)}, file)

    return spoil


def config(name: str, value: Any) -> Spoil:
    return change(name, value, "adapter_config.json")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (config("alpha_pattern", {"layers.0.mlp.down_proj": 64}), "alpha_pattern {'layers.0.mlp.down_proj': 64}"),
        (config("rank_pattern", {"q_proj": 16}), "rank_pattern {'q_proj': 16}"),
        (config("use_dora", True), "use_dora"),
        (config("init_lora_weights", "pissa"), "init_lora_weights"),
        (config("peft_type", "IA3"), "peft_type"),
        (config("r", None), "r None"),
        (config("r", 0), "r 0"),
        (config("target_modules", ["lm_head"]), "target_modules: lm_head"),
        (config("base_model_name_or_path", None), "base_model_name_or_path"),
        (cut("adapter_config.json"), "adapter_config.json: not to be read"),
        (cut("adapter_model.safetensors"), "adapter_model.safetensors: not to be read"),
        (lambda directory: (directory / "agentloop.json").write_text("{"), "agentloop.json: not to be read"),
        (reshape("layers.0.self_attn.q_proj.lora_A", (1, 128)), "layers.0.self_attn.q_proj.lora_A.weight is [1, 128]"),
        (reshape("layers.0.self_attn.q_proj.lora_B", (128, 16)), "[128, 16], not [128, 8]"),
        (fill("layers.0.self_attn.q_proj.lora_B", float("nan")), "q_proj.lora_B.weight has NaN or infinity"),
        (fill("layers.1.mlp.up_proj.lora_A", float("inf")), "up_proj.lora_A.weight has NaN or infinity"),
    ],
)
def test_broken_adapters(adapter, cache, spoil, named):
    spoil(adapter)
    with pytest.raises(AdapterError) as error:
        FastLanguageModel.from_pretrained(adapter, cache_directory=cache)
    assert str(adapter) in one_line(error.value) and named in str(error.value)
