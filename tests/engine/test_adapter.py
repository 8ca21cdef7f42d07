"""Adapters on disk: what PEFT reads is what was trained, and nothing is applied to the wrong base."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.lora.projection import write_weight
from agentloop.engine.optimizer import FlatAdamW
from agentloop.errors import AdapterError

IDS = [3, 50, 7, 8, 90, 12, 44, 5]


def load(checkpoint, cache, **settings):
    model, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    return FastLanguageModel.get_peft_model(model, **({"r": 8, "lora_alpha": 16} | settings))


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)
def test_peft_gives_the_same_logprobs(checkpoint, cache, fill_adapter, tmp_path):
    model = load(checkpoint, cache)
    fill_adapter(model)
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    modules = dict(base.model.named_modules())
    for layer in model.weights.layers:
        for group in layer.groups:
            for name, weight in group.parts:
                write_weight(weight, modules[name].weight.data)

    def theirs(network) -> torch.Tensor:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([IDS])).logits[0, :-1]
        return torch.log_softmax(logits, -1).gather(-1, torch.tensor(IDS[1:])[:, None])[:, 0]

    torch.testing.assert_close(model.logprobs(IDS, adapter=False), theirs(base), rtol=0, atol=1e-4)
    peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(model.logprobs(IDS), theirs(peft), rtol=0, atol=1e-4)
    assert (model.logprobs(IDS) - model.logprobs(IDS, adapter=False)).abs().max() > 1e-2


def test_a_rank_that_is_no_multiple_of_8(checkpoint, cache, tmp_path):
    """Filled up with zeros, which training leaves alone: PEFT's adapter, before it and after."""
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    settings = LoraConfig(r=4, lora_alpha=24, target_modules=rf".*\.({'|'.join(TARGETS)})", init_lora_weights=False)
    peft = get_peft_model(base, settings).eval()
    peft.peft_config["default"].base_model_name_or_path = str(checkpoint)
    peft.save_pretrained(tmp_path / "theirs")
    model, _ = FastLanguageModel.from_pretrained(tmp_path / "theirs", load_in_4bit=False, cache_directory=cache)
    optimizer = FlatAdamW(model.lora, weight_decay=0.1)
    for _ in range(2):  # PEFT's adapter, and what it was trained into
        with torch.no_grad():
            logits = peft(input_ids=torch.tensor([IDS])).logits[0, :-1]
        expected = torch.log_softmax(logits, -1).gather(-1, torch.tensor(IDS[1:])[:, None])[:, 0]
        torch.testing.assert_close(model.logprobs(IDS), expected, rtol=0, atol=1e-4)
        model.loss_and_gradients(join([(IDS, [True] * len(IDS))]))
        optimizer.step(learning_rate=1e-3)
        model.save_pretrained(tmp_path / "ours")
        peft = PeftModel.from_pretrained(peft.unload(), tmp_path / "ours").eval()
    shapes = {tuple(t.shape) for t in load_file(tmp_path / "ours" / "adapter_model.safetensors").values()}
    assert {min(shape) for shape in shapes} == {4}
    for slot in model.lora.slots.values():
        assert not slot.view_a(model.lora.parameters)[4:].any() and not slot.view_b(model.lora.parameters)[:, 4:].any()
    assert (
        not FastLanguageModel.get_peft_model(model.unload(), r=4)
        .lora.slots["layers.0.mlp.up_proj"]
        .view_a(model.lora.parameters)[4:]
        .any()
    )


def test_comes_back(checkpoint, cache, fill_adapter, tmp_path):
    model = load(checkpoint, cache)
    fill_adapter(model)
    model.save_pretrained(tmp_path / "adapter")
    other = load(checkpoint, cache)
    other.load_adapter(tmp_path / "adapter")
    assert torch.equal(other.lora.parameters, model.lora.parameters)


def test_refuses_what_does_not_fit(checkpoint, cache, tmp_path):
    model = load(checkpoint, cache)
    directory = tmp_path / "adapter"
    model.save_pretrained(directory)
    with pytest.raises(AdapterError, match="rank 8"):
        load(checkpoint, cache, r=16).load_adapter(directory)
    with pytest.raises(AdapterError, match="would be dropped"):
        load(checkpoint, cache, target_modules=["q_proj"]).load_adapter(directory)
    (directory / "agentloop.json").write_text(json.dumps({"base": "base_0"}))
    with pytest.raises(AdapterError, match="trained on base_0"):
        model.load_adapter(directory)


@pytest.mark.parametrize(
    ("checkpoint", "family", "prefix"),
    [("gemma3n", "gemma3n", "model.language_model."), ("gemma3", "gemma3", "language_model.model.")],
    indirect=["checkpoint"],
)
def test_language_model_of_a_multimodal_checkpoint(checkpoint, family, prefix, cache, fill_adapter, tmp_path):
    """The same weights, named as in the released files beside a tower that is never read."""
    multimodal = tmp_path / "multimodal"
    shutil.copytree(checkpoint, multimodal)
    text = json.loads((checkpoint / "config.json").read_text())
    (multimodal / "config.json").write_text(json.dumps({"model_type": family, "text_config": text}))
    tower = "vision_tower.encoder.layers.0.self_attn.q_proj"
    tensors = load_file(checkpoint / "model.safetensors")
    named = {name.replace("model.", prefix, 1): tensor for name, tensor in tensors.items()}
    save_file(named | {f"{tower}.weight": torch.zeros(4)}, multimodal / "model.safetensors")

    model, other = load(checkpoint, cache), load(multimodal, cache)
    for each in (model, other):
        fill_adapter(each)
    assert torch.equal(model.logprobs(IDS), other.logprobs(IDS))
    other.save_pretrained(tmp_path / "adapter")
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    excluded = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["exclude_modules"]
    assert re.fullmatch(excluded, f"model.{tower}")  # as PEFT reads it
    assert not any(re.fullmatch(excluded, name.removeprefix("base_model.model.")) for name in names)
    other.load_adapter(tmp_path / "adapter")
    other.save_pretrained_merged(tmp_path / "merged")
    model.save_pretrained_merged(tmp_path / "text")
    ours, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "text"))
    assert ours.keys() == named.keys() | {f"{tower}.weight"}
    for name, tensor in expected.items():
        assert torch.equal(ours[name.replace("model.", prefix, 1)], tensor)
