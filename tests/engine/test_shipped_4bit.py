"""Directories that transformers and bitsandbytes wrote in 4 bit: loaded without a 16-bit original, as they compute them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from agentloop.campaign import fitting
from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import join
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.errors import ModelError, SettingError
from agentloop.model_directory import tensors
from agentloop.quantization import bitsandbytes
from agentloop.records import NF4
from agentloop.settings import load

IDS = [2, 5, 9, 17, 4, 30, 8, 7, 11, 3, 90, 41]
NARROW = ["linear_right", "per_layer_projection"]
"""bitsandbytes' CPU kernel unpacks these wrongly: it takes each row to begin a block of 64, and they have 16 and 32 columns."""
SKIPPED = {
    # from the start of a module's name, and from its end; "altup_projections" is neither, so it is packed all the same
    "gemma3n": ["lm_head", "model.layers.2.mlp", "layers.1.self_attn.o_proj", "altup_projections", "router", "_coefs"]
    + NARROW,
    "gemma3": ["lm_head", "model.layers.2.mlp", "layers.1.self_attn.o_proj"],
}
OTHERWISE = {"bnb_4bit_use_double_quant": False}, {"bnb_4bit_quant_type": "fp4"}, {"bnb_4bit_quant_storage": "bfloat16"}


def pack(source: Path, directory: Path, skipped: list[str], *, shards: str = "5GB", **options) -> Path:
    """transformers' own way: quantised at loading by bitsandbytes, then saved."""
    settings = dict(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=skipped)
    config = BitsAndBytesConfig(load_in_4bit=True, **settings | options)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.float32)
    model.save_pretrained(directory, max_shard_size=shards)
    AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def packed(request, checkpoint, tmp_path_factory) -> Path:
    family = "gemma3n" if "altup_num_inputs" in (checkpoint / "config.json").read_text() else "gemma3"
    return pack(checkpoint, tmp_path_factory.mktemp("packed") / "tiny-bnb-4bit", SKIPPED[family])


def theirs(directory: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    model.train()  # bitsandbytes' kernel for inference on the CPU asks for more rows than so small a model has
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, :-1].float()


def ours(model) -> torch.Tensor:
    return model.logits(join([(IDS, [True] * len(IDS))]))


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3"], indirect=True)
def test_computes_what_bitsandbytes_does(packed, checkpoint, cache, fill_adapter, tmp_path):
    before = set(cache.rglob("*.safetensors"))
    model, tokenizer = FastLanguageModel.from_pretrained(packed, cache_directory=cache)
    assert set(cache.rglob("*.safetensors")) == before  # nothing was quantised
    assert tokenizer.eos_token
    torch.testing.assert_close(ours(model), theirs(packed), rtol=2e-4, atol=2e-4)
    kept = set(model.quantization.in_16bit)
    assert {"layers.1.self_attn.o_proj", "layers.2.mlp.gate_proj", "layers.2.mlp.down_proj"} <= kept
    assert "layers.1.mlp.down_proj" not in kept and "layers.0.self_attn.o_proj" not in kept
    # what the skip list leaves in 16 bit makes a difference that the tolerance would not hide
    plain, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    assert (ours(plain) - ours(model)).abs().max() > 1e-2

    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    model.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(ours(model), theirs(packed, tmp_path / "adapter"), rtol=5e-4, atol=5e-4)
    again, _ = FastLanguageModel.from_pretrained(tmp_path / "adapter", cache_directory=cache)
    assert torch.equal(ours(again), ours(model))


def test_every_packed_number_is_bitsandbytes_own(checkpoint, cache, tmp_path):
    """The dequantised directory, tensor by tensor: AltUp's, those of 16 and 32 columns, and the coefficients too."""
    packed = pack(checkpoint, tmp_path / "packed", ["lm_head"], shards="200KB")
    directory = dequantised_checkpoint(packed, cache)
    config = json.loads((directory / "config.json").read_text())
    assert "quantization_config" not in config
    files = sorted(directory.glob("*.safetensors"))
    assert len(files) > 3
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == found.keys()
    model = AutoModelForCausalLM.from_pretrained(packed, dtype=torch.float32)
    names = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    kinds = {re.sub(r"\.\d+$", "", name).rpartition(".")[2] for name in names}
    assert {"altup_projections", "modality_router", "prediction_coefs", *NARROW} <= kinds
    for name in names:
        weight = model.get_submodule(name).weight
        state, nested = weight.quant_state, weight.quant_state.state2
        absmax = (
            nested.code[state.absmax.int()] * nested.absmax.repeat_interleave(256)[: len(state.absmax)] + state.offset
        )
        expected = _dequantize_4bit_compute(
            weight.data.reshape(-1), absmax, state.code, state.blocksize, state.shape, state.dtype
        )
        assert torch.equal(found[f"{name}.weight"], expected), name
    assert not [name for name in found if "absmax" in name or "quant" in name]
    assert AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).model.layers[0] is not None


@pytest.mark.parametrize("options", OTHERWISE, ids=lambda options: next(iter(options)))
def test_packed_otherwise(checkpoint, cache, tmp_path, options):
    """The same numbers; what the kernels cannot take over is held as a plain matrix."""
    packed = pack(checkpoint, tmp_path / "packed", SKIPPED["gemma3n"], **options)
    model, _ = FastLanguageModel.from_pretrained(packed, cache_directory=cache)
    assert model.quantization.in_4bit == ("bnb_4bit_quant_storage" in options)
    torch.testing.assert_close(ours(model), theirs(packed), rtol=2e-4, atol=2e-4)


def test_the_language_model_of_a_multimodal_directory(packed, cache, tmp_path):
    """Its names begin with `model.language_model.`, in the files as in the skip list."""
    directory = tmp_path / "multimodal"
    directory.mkdir()
    for file in packed.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    tower = {"model.vision_tower.blocks.0.q_proj.weight": torch.ones(4, 4)}
    language = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(packed / "model.safetensors").items()
    }
    save_file(tower | language, directory / "model.safetensors", metadata={"format": "pt"})
    text = json.loads((packed / "config.json").read_text())
    quantization = text.pop("quantization_config")
    quantization["llm_int8_skip_modules"] = [
        name.replace("model.", "model.language_model.", 1) for name in quantization["llm_int8_skip_modules"]
    ]
    config = {"model_type": "gemma3n", "text_config": text, "quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config))
    model, _ = FastLanguageModel.from_pretrained(directory, cache_directory=cache)
    expected, _ = FastLanguageModel.from_pretrained(packed, cache_directory=cache)
    assert model.quantization == expected.quantization
    assert torch.equal(ours(model), ours(expected))


def test_merging_is_onto_what_it_unpacks_to(packed, cache, fill_adapter, tmp_path):
    model, _ = FastLanguageModel.from_pretrained(packed, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    with pytest.warns(UserWarning, match="4-bit weights alone"):
        model.save_pretrained_merged(tmp_path / "merged")
    record = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert record["agentloop_merged"]["onto"] == "dequantised" and "quantization_config" not in record
    text = (tmp_path / "merged" / "README.md").read_text()
    assert "came in 4 bit" in text and "trained on the base's dequantised NF4" in text
    torch.testing.assert_close(theirs(tmp_path / "merged"), ours(model), rtol=1e-3, atol=1e-3)


def test_what_this_project_writes_it_reads(checkpoint, cache, tmp_path):
    bitsandbytes.write(checkpoint, tmp_path / "own", NF4, cache=cache)
    model, _ = FastLanguageModel.from_pretrained(tmp_path / "own", cache_directory=cache)
    original, _ = FastLanguageModel.from_pretrained(checkpoint, cache_directory=cache)
    assert torch.equal(ours(model), ours(original))
    with pytest.raises(SettingError, match="in bitsandbytes' 4 bit already"):
        bitsandbytes.write(tmp_path / "own", tmp_path / "again", NF4, cache=cache)


def test_refused_in_one_line(packed, cache, tmp_path):
    with pytest.raises(SettingError, match="^load_in_4bit: False, but .* 4-bit weights alone"):
        FastLanguageModel.from_pretrained(packed, load_in_4bit=False, cache_directory=cache)
    with pytest.raises(SettingError, match=r"^in_16bit: .*layers\.0\.mlp\.up_proj in 4 bit alone"):
        FastLanguageModel.from_pretrained(packed, in_16bit=["layers.0.mlp.up_proj"], cache_directory=cache)


def broken(packed: Path, directory: Path, change) -> Path:
    """`packed` after `change(config, tensors)`."""
    directory.mkdir()
    for file in packed.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    config, weights = json.loads((packed / "config.json").read_text()), load_file(packed / "model.safetensors")
    change(config, weights)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


DOWN = "model.layers.0.mlp.down_proj.weight"
STATE = f"{DOWN}.quant_state.bitsandbytes__nf4"
FAULTS = {
    "8bit": (lambda c, w: c["quantization_config"].update(load_in_4bit=False, _load_in_4bit=False), "in 8 bit is not supported"),
    "other": (lambda c, w: c["quantization_config"].update(quant_method="gptq"), "'gptq' is not supported"),
    "no_config": (lambda c, w: c.pop("quantization_config"), "config.json has no quantization_config"),
    "no_absmax": (lambda c, w: w.pop(f"{DOWN}.absmax"), f"the weights lack {DOWN}.absmax"),
    "no_scales": (lambda c, w: w.pop(f"{DOWN}.nested_absmax"), f"the weights lack {DOWN}.nested_absmax"),
    "short": (lambda c, w: w.update({DOWN: w[DOWN][:-4].clone()}), f"{DOWN} has"),
    "torn": (lambda c, w: w.update({STATE: w[STATE][:9].clone()}), f"quant_state of {DOWN} is not to be read"),
    "width": (lambda c, w: c.update(hidden_size=64), "by config.json"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_directory_says_what_is_broken(packed, tmp_path, fault):
    change, expected = FAULTS[fault]
    directory = broken(packed, tmp_path / "broken", change)
    with pytest.raises(ModelError) as error:
        tensors.check(directory)
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("shipped", [True, False], ids=["packed", "packed by us"])
def test_what_is_served_without_a_card_is_what_the_trainer_computes_with(checkpoint, cache, tmp_path, stored, shipped):
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=stored)
    model.save_pretrained(tmp_path / "narrow")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "narrow")
    base = tmp_path / "narrow"
    if shipped:
        base = pack(base, tmp_path / "packed", SKIPPED["gemma3n"])
    trained, _ = FastLanguageModel.from_pretrained(base, cache_directory=cache, load_in_4bit=True)
    written = dequantised_checkpoint(base, cache, exact=True)
    served, _ = FastLanguageModel.from_pretrained(written, cache_directory=cache, load_in_4bit=False)
    torch.testing.assert_close(ours(served), ours(trained), rtol=1e-5, atol=1e-5)


def test_a_base_in_4_bit_is_trained_on_as_it_is_or_refused(packed, tmp_path):
    def settings(kind):
        words = [f"model={packed}", f"paths.data={tmp_path}", f"training.quantization={kind}"]
        return load(words, profile="demo")

    assert fitting.kind(settings("auto")) == fitting.kind(settings("nf4")) == "nf4"
    for kind in ("none", "dynamic"):
        with pytest.raises(
            SettingError, match=f"^training.quantization: {kind} needs a base in 16 bit, but .* comes in"
        ):
            fitting.check(settings(kind))
