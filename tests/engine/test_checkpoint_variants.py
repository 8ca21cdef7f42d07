"""Checkpoint directories as they are found: further files, other heads, rare settings. The oracle is transformers.

What is computed equals what transformers computes; anything else is refused in one line that names file or setting.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3nTextConfig, Gemma3TextConfig, GemmaConfig

from agentloop.engine import FastLanguageModel
from agentloop.engine.io.dequantised import dequantised_checkpoint
from agentloop.errors import ModelError
from agentloop.model_directory.configuration import read_architecture
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.quantization import bitsandbytes
from agentloop.records import NF4

IDS = [3, 50, 7, 8, 90, 12, 44, 5]
INDEX = "model.safetensors.index.json"
FAMILIES = pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma1"], indirect=True)


@pytest.fixture
def model(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "model")


def change(directory, **settings):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def theirs(directory) -> torch.Tensor:
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return network(input_ids=torch.tensor([IDS])).logits


def ours(directory, cache) -> torch.Tensor:
    loaded, _ = FastLanguageModel.from_pretrained(directory, load_in_4bit=False, cache_directory=cache)
    with torch.no_grad():
        return loaded(torch.tensor([IDS])).logits


def refusal(directory, cache) -> str:
    with pytest.raises(ModelError) as error:
        FastLanguageModel.from_pretrained(directory, cache_directory=cache)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(directory))
    return str(error.value)


def other_values(directory) -> dict[str, torch.Tensor]:
    return {name: tensor.flip(0).contiguous() for name, tensor in load_file(directory / "model.safetensors").items()}


def write(directory, name, tensors):
    save_file(tensors, directory / name, metadata={"format": "pt"})


def shard(directory, *, index=True):
    """In two files."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        write(directory, file, {name: tensors[name] for name in held})
    if index:
        where = {name: file for file, held in parts.items() for name in held}
        (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


# further files


@FAMILIES
@pytest.mark.parametrize(
    "name", ["a_backup.safetensors", "model_old.safetensors", "z.safetensors", "adapter_model.safetensors"]
)
@pytest.mark.parametrize("sharded", [False, True])
def test_a_second_file_of_weights_is_not_read(model, cache, name, sharded):
    expected, called = theirs(model), base_fingerprint(model, cache)
    stale = other_values(model)
    if sharded:
        shard(model)
        called = base_fingerprint(model, cache)
    write(model, name, stale)
    torch.testing.assert_close(ours(model, cache), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours(model, cache), theirs(model), rtol=0, atol=1e-4)
    assert base_fingerprint(model, cache) == called
    assert not (dequantised_checkpoint(model, cache) / name).exists()


def test_what_is_written_has_no_stale_file(model, cache, tmp_path):
    write(model, "z.safetensors", other_values(model))
    loaded, _ = FastLanguageModel.from_pretrained(model, cache_directory=cache)
    loaded = FastLanguageModel.get_peft_model(loaded, r=8)
    for base in ("bf16", "dequantised"):
        loaded.save_pretrained_merged(tmp_path / base, base=base)
    bitsandbytes.write(model, tmp_path / "packed", NF4, cache=cache)
    for directory in ("bf16", "dequantised", "packed"):
        assert [path.name for path in (tmp_path / directory).glob("*.safetensors")] == ["model.safetensors"]
    torch.testing.assert_close(theirs(tmp_path / "bf16"), theirs(model))


def test_a_stale_shard(model, cache):
    """Of an earlier save in three parts, and one that holds a tensor twice."""
    expected, stale = theirs(model), other_values(model)
    shard(model)
    write(model, "model-00003-of-00003.safetensors", stale)
    first = model / "model-00001-of-00002.safetensors"
    second = "model.embed_tokens_per_layer.weight"
    assert second not in load_file(first)
    write(model, first.name, load_file(first) | {second: stale[second]})
    torch.testing.assert_close(ours(model, cache), expected, rtol=0, atol=1e-4)


def test_a_whole_file_beside_an_index(model, cache):
    """transformers reads model.safetensors."""
    expected, stale = theirs(model), other_values(model)
    whole = (model / "model.safetensors").read_bytes()
    write(model, "model.safetensors", stale)
    shard(model)
    (model / "model.safetensors").write_bytes(whole)
    torch.testing.assert_close(theirs(model), expected)
    torch.testing.assert_close(ours(model, cache), expected, rtol=0, atol=1e-4)


def test_shards_without_an_index(model, cache):
    """Which transformers refuses; nothing is ambiguous as long as no tensor is there twice."""
    expected, stale = theirs(model), other_values(model)
    shard(model, index=False)
    torch.testing.assert_close(ours(model, cache), expected, rtol=0, atol=1e-4)
    write(model, "model-00003-of-00003.safetensors", {name: stale[name] for name in list(stale)[:1]})
    message = refusal(model, cache)
    assert "model-00003-of-00003.safetensors: holds model." in message and "remove one" in message


def test_an_index_that_names_a_missing_tensor(model, cache):
    shard(model)
    file = model / "model-00002-of-00002.safetensors"
    tensors = load_file(file)
    write(model, file.name, dict(list(tensors.items())[1:]))
    assert f"the weights lack {next(iter(tensors))}" in refusal(model, cache)


# heads


@FAMILIES
@pytest.mark.parametrize("tied", [True, False, None])
@pytest.mark.parametrize("head", [True, False])
def test_heads(model, cache, tied, head):
    """transformers 5 uses a head that is in the files whatever config.json says."""
    change(model, tie_word_embeddings=tied)
    if tied is None:
        config = json.loads((model / "config.json").read_text())
        del config["tie_word_embeddings"]
        (model / "config.json").write_text(json.dumps(config))
    if head:
        tensors = load_file(model / "model.safetensors")
        write(
            model, "model.safetensors", tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"].flip(0)}
        )
    if head or tied is not False:
        torch.testing.assert_close(ours(model, cache), theirs(model), rtol=0, atol=1e-4)
    else:
        assert "the weights lack lm_head.weight, and tie_word_embeddings is false" in refusal(model, cache)


def test_a_head_that_does_not_fit(model, cache):
    tensors = load_file(model / "model.safetensors")
    write(model, "model.safetensors", tensors | {"lm_head.weight": torch.zeros(7, 128)})
    assert "lm_head.weight is [7, 128] in the weights" in refusal(model, cache)
    write(model, "model.safetensors", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].to(torch.int8)})
    assert "lm_head.weight is I8 in the weights" in refusal(model, cache)


# settings


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True)
def test_dropout_of_attention(model, cache):
    change(model, attention_dropout=0.1)
    assert "attention_dropout 0.1 is not supported (only 0.0)" in refusal(model, cache)
    change(model, attention_dropout=0.0)
    read_architecture(model)


@pytest.mark.parametrize("sparsity", [1.0, 1, 1.5, -0.1, float("nan")])
def test_a_sparsity_that_leaves_nothing(model, cache, sparsity):
    change(model, activation_sparsity_pattern=[0.95, 0.0, sparsity, 0.0, 0.0])
    assert f"activation_sparsity_pattern {sparsity!r} is not a number from 0 to below 1" in refusal(model, cache)


SIZES = dict(
    vocab_size=252, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
    max_position_embeddings=512, initializer_range=0.2, pad_token_id=0, bos_token_id=2, eos_token_id=1,
)  # fmt: skip
KINDS = ["sliding_attention", "full_attention"] * 2
DEEP = dict(num_hidden_layers=4, layer_types=KINDS, sliding_window=4)
THREE_N = DEEP | dict(
    vocab_size_per_layer_input=252, hidden_size_per_layer_input=16, num_kv_shared_layers=2, altup_num_inputs=3,
    laurel_rank=8, activation_sparsity_pattern=[0.9, 0.0, 0.0, 0.5],
)  # fmt: skip
GRID = {
    "gemma3n": (Gemma3nTextConfig, THREE_N, [
        {}, {"altup_num_inputs": 1}, {"altup_num_inputs": 4}, {"num_kv_shared_layers": 0}, {"laurel_rank": 1},
        {"hidden_size_per_layer_input": 1}, {"altup_coef_clip": 0.05}, {"sliding_window": 1},
        {"activation_sparsity_pattern": None}, {"activation_sparsity_pattern": [0.999] * 4}, {"rms_norm_eps": 0.1},
        {"final_logit_softcapping": 0.7}, {"intermediate_size": [96, 64, 33, 96]},
    ]),
    "gemma3": (Gemma3TextConfig, DEEP, [
        {}, {"sliding_window": 1}, {"query_pre_attn_scalar": 3}, {"final_logit_softcapping": 2.0}, {"head_dim": 6},
        {"num_key_value_heads": 1}, {"num_key_value_heads": 4}, {"layer_types": KINDS[:1] * 4}, {"layer_types": KINDS[1:2] * 4},
        {"hidden_size": 44}, {"num_hidden_layers": 1, "layer_types": KINDS[:1]}, {"sliding_window": 4096},
    ]),
    "gemma2": (Gemma2Config, DEEP, [
        {}, {"attn_logit_softcapping": 0.5}, {"attn_logit_softcapping": None}, {"final_logit_softcapping": None},
        {"query_pre_attn_scalar": 7}, {"sliding_window": 2},
    ]),
    "gemma1": (GemmaConfig, {"num_hidden_layers": 2}, [
        {}, {"head_dim": 8}, {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}, {"num_key_value_heads": 1},
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, changes) for family, (_, _, rows) in GRID.items() for changes in rows],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value)) or "as usual",
)
def test_grid_of_configurations(checkpoint, cache, tmp_path, family, changes):
    config_class, own, _ = GRID[family]
    config = config_class(**SIZES | own | changes)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32)
    network.train("altup_coef_clip" in changes)  # where alone transformers clips
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            size = 0.3 if parameter.dim() == 1 else parameter.shape[1] ** -0.5
            parameter.normal_(0, size, generator=generator)
            if parameter.dim() == 1 and family == "gemma3n":
                parameter.add_(1)
    network.tie_weights()
    network.save_pretrained(tmp_path / "model")
    for file in checkpoint.glob("*token*"):
        shutil.copy(file, tmp_path / "model")
    loaded, _ = FastLanguageModel.from_pretrained(tmp_path / "model", load_in_4bit=False, cache_directory=cache)
    ids = torch.tensor([IDS + IDS[::-1], IDS[:6] * 2 + [0] * 4])
    mask = (torch.arange(16) < torch.tensor([[16], [12]])).long()
    with torch.no_grad():
        expected = network(input_ids=ids, attention_mask=mask).logits
        found = loaded(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-3, atol=2e-4)
