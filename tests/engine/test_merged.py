"""Adapter and base as one checkpoint, beside PEFT's merge."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.errors import SettingError

IDS = torch.tensor([[3, 50, 7, 8, 90, 12, 44, 5]])


@pytest.fixture
def model(checkpoint, cache, fill_adapter):
    loaded, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    trained = FastLanguageModel.get_peft_model(
        loaded, r=8, lora_alpha=16, use_rslora=True, layers_to_transform=[0, 2, 3]
    )
    fill_adapter(trained)
    return trained


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3"], indirect=True)
@pytest.mark.parametrize("base", ["bf16", "dequantised"])
def test_equals_pefts_merge(model, checkpoint, cache, tmp_path, base):
    model.save_pretrained_merged(tmp_path / "merged", base=base)
    model.save_pretrained(tmp_path / "adapter")
    source = checkpoint if base == "bf16" else dequantised_checkpoint(checkpoint, cache)
    original = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(original, tmp_path / "adapter").merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    expected = theirs.state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=name)
    with torch.no_grad():
        logits = ours(IDS).logits
        torch.testing.assert_close(logits, theirs(IDS).logits, rtol=0, atol=1e-5)
        trained_on = (logits - model(IDS).logits).abs().max()
    assert (trained_on < 1e-4) == (base == "dequantised")


def test_says_what_it_is(model, checkpoint, tmp_path):
    directory = tmp_path / "merged"
    model.save_pretrained_merged(directory, base="dequantised")
    record = json.loads((directory / "config.json").read_text())["agentloop_merged"]
    assert (record["base"], record["onto"], record["adapter"]["rank"]) == (model.fingerprint, "dequantised", 8)
    assert "trained on the base's dequantised NF4" in (directory / "README.md").read_text()
    changed = load_file(directory / "model.safetensors").keys()
    assert changed == load_file(checkpoint / "model.safetensors").keys()
    assert FastLanguageModel.from_pretrained(directory, cache_directory=tmp_path)[1].eos_token
    with pytest.raises(SettingError, match="exists already"):
        model.save_pretrained_merged(directory)
    with pytest.raises(SettingError, match="save_method"):
        model.save_pretrained_merged(tmp_path / "other", save_method="merged_4bit")


def test_the_same_merge_is_the_same_base(model, tmp_path):
    """Its name is a hash of its files, so they have to be the same to the byte."""
    for place in range(6):
        model.save_pretrained_merged(tmp_path / f"{place}" / "merged")
    written = [sorted((tmp_path / f"{place}" / "merged").iterdir()) for place in range(6)]
    for files in zip(*written, strict=True):
        assert len({file.read_bytes() for file in files}) == 1, files[0].name


def test_an_adapter_trained_in_16_bit(checkpoint, cache, tmp_path):
    model, _ = FastLanguageModel.from_pretrained(checkpoint, load_in_4bit=False, cache_directory=cache)
    FastLanguageModel.get_peft_model(model, r=8).save_pretrained_merged(tmp_path / "merged", base="dequantised")
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "onto its dequantised NF4 weights" in text and "trained on the base's original weights" in text
