"""The written directory: transformers with bitsandbytes reads from it what the engine computes with the same plan."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.errors import SettingError
from agentloop.quantization import bitsandbytes
from agentloop.records import NF4, Quantization
from agentloop.tiny.architecture import random_checkpoint
from agentloop.tiny.gemma import random_gemma_checkpoint

IDS = [2, 5, 9, 17, 4, 30, 8, 7, 11, 3, 90, 41]
WRITERS = {"gemma3n": random_checkpoint, "gemma3": partial(random_gemma_checkpoint, generation=3)}


@pytest.fixture(scope="module", params=WRITERS)
def base(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param) / "base"
    WRITERS[request.param](directory)
    return directory


@pytest.fixture(scope="module")
def plan(base, tmp_path_factory) -> Quantization:
    """What servers fuse, and one that stands alone, in 16 bit."""
    model, _ = FastLanguageModel.from_pretrained(base, cache_directory=base.parent / "cache")
    packable = {name for layer in model.weights.layers for group in layer.groups for name, _ in group.parts}
    wanted = [f"layers.1.self_attn.{which}_proj" for which in "qkv"] + ["layers.0.mlp.down_proj"]
    assert packable.issuperset(wanted)
    return Quantization(True, tuple(sorted(wanted)))


def engine_logits(base, quantization):
    model, _ = FastLanguageModel.from_pretrained(
        base, load_in_4bit=True, in_16bit=quantization.in_16bit, cache_directory=base.parent / "cache"
    )
    assert set(model.quantization.in_16bit) <= set(quantization.in_16bit)
    return model.logits(join([(IDS, [True] * len(IDS))]))


def test_transformers_reads_the_same_numbers(base, plan, tmp_path):
    found = {}
    for name, quantization in (("nf4", NF4), ("dynamic", plan)):
        bitsandbytes.write(base, tmp_path / name, quantization, cache=base.parent / "cache")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        kinds = {type(module).__name__ for path, module in model.named_modules() if path.endswith("down_proj")}
        assert kinds == ({"Linear4bit"} if name == "nf4" else {"Linear4bit", "Linear"})
        model.train()  # bitsandbytes' kernel for inference on the CPU asks for more rows than so small a model has
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, :-1].float()
        found[name] = engine_logits(base, quantization)
        torch.testing.assert_close(found[name], theirs, rtol=2e-4, atol=2e-4)
    # the plan makes a difference that the tolerance would not hide
    assert (found["nf4"] - found["dynamic"]).abs().max() > 2e-2


def test_what_is_left_is_named_for_transformers_and_for_vllm(base, plan, tmp_path):
    size = bitsandbytes.write(base, tmp_path / "out", plan, cache=base.parent / "cache")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    skipped = set(config["llm_int8_skip_modules"])
    assert {"lm_head", "model.layers.1.self_attn.v_proj", "model.layers.1.self_attn.qkv_proj"} <= skipped
    assert "model.layers.0.mlp.down_proj" in skipped and "model.layers.1.mlp.down_proj" not in skipped
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.layers.1.mlp.down_proj.weight"].dtype == torch.uint8
    assert tensors["model.layers.0.mlp.down_proj.weight"].dtype.is_floating_point
    assert size < (base / "model.safetensors").stat().st_size
    with pytest.raises(SettingError, match="exists already"):
        bitsandbytes.write(base, tmp_path / "out", plan, cache=base.parent / "cache")
