"""A GGUF, written as llama.cpp writes it, becomes the checkpoint that it was made from."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf_exporter import Exporter, vocabulary
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3nTextConfig
from typer.testing import CliRunner

from agentloop.cli.app import app
from agentloop.engine import FastLanguageModel
from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.errors import ModelError
from agentloop.gguf import weights
from agentloop.gguf.file import GgufFile, Tensor, open_gguf
from agentloop.gguf.hyperparameters import Hyperparameters, read_hyperparameters
from agentloop.gguf.importing import imported
from agentloop.gguf.names import expected, targets
from agentloop.project import CHECKOUT
from agentloop.tiny.architecture import WORDS, initialise, random_checkpoint, save, tiny_config
from agentloop.tiny.gemma import random_gemma_checkpoint
from agentloop.tiny.tokenizer import build_tokenizer

VOCABULARY = 448
"""Of the tiny checkpoints."""


def uneven_checkpoint(directory: Path) -> None:
    """A Gemma 3n with as many streams as the real ones, and feed-forwards of several sizes."""
    tokenizer = build_tokenizer(WORDS)
    settings = tiny_config(tokenizer).to_dict() | {"altup_num_inputs": 4, "intermediate_size": [384, 256, 128, 384, 64]}
    save(initialise(Gemma3nTextConfig(**settings), seed=1), tokenizer, directory)


WRITERS = {"gemma3n": random_checkpoint, "gemma3n-uneven": uneven_checkpoint} | {
    f"gemma{generation}": partial(random_gemma_checkpoint, generation=generation) for generation in (1, 2, 3)
}
FAMILIES = pytest.mark.parametrize("checkpoint", [*WRITERS, "models/tiny"], indirect=True)
ANY = pytest.mark.parametrize("checkpoint", ["gemma3"], indirect=True)


@pytest.fixture(scope="module")
def pieces():
    return vocabulary(VOCABULARY)


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory) -> Path:
    if request.param == "models/tiny":
        return CHECKOUT / "models" / "tiny"
    directory = tmp_path_factory.mktemp("checkpoint") / request.param
    WRITERS[request.param](directory)
    return directory


@pytest.fixture
def bring(checkpoint, pieces, tmp_path):
    """The directory that a GGUF of the checkpoint becomes."""

    def write_and_import(**options) -> Path:
        path = Exporter(checkpoint, vocabulary=pieces, **options).write(tmp_path / "model.gguf")
        return imported(path, tmp_path / "models", cache=tmp_path / "cache")

    return write_and_import


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


def needed(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Without a head that is the embedding."""
    return {name: tensor.float() for name, tensor in weights_of(checkpoint).items() if not name.startswith("lm_head")}


def has_ones_added(checkpoint: Path, name: str) -> bool:
    return name.endswith("norm.weight") and "3n" not in AutoConfig.from_pretrained(checkpoint).model_type


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@FAMILIES
def test_tensors_are_the_originals_rounded_once(checkpoint, bring, kind):
    got, original = weights_of(bring(type=kind)), needed(checkpoint)
    assert got.keys() == original.keys()
    for name, tensor in original.items():
        stored = tensor
        if kind == "F16" and tensor.dim() > 1:
            stored = tensor.half().float()
        if has_ones_added(checkpoint, name):
            stored = (tensor + 1) - 1
        assert got[name].dtype == torch.bfloat16 and torch.equal(got[name], stored.bfloat16()), name


@FAMILIES
def test_quantised_tensors_are_within_their_own_error(checkpoint, bring):
    got, original = weights_of(bring(type="Q8_0")), needed(checkpoint)
    quantised = [name for name, tensor in original.items() if tensor.dim() == 2 and tensor.shape[1] % 32 == 0]
    assert len(quantised) > len(original) / 3
    for name in quantised:
        blocks, values = original[name].reshape(-1, 32), got[name].float().reshape(-1, 32)
        most = blocks.abs().amax(1, keepdim=True)
        # half a step, the scale's rounding to fp16, bf16's
        bound = most / 127 / 2 + most * 2**-11 + blocks.abs() * 2**-8
        assert ((values - blocks).abs() <= bound).all(), name
        assert not torch.equal(got[name], original[name].bfloat16()), name


@FAMILIES
def test_configuration_and_logits(checkpoint, bring):
    directory = bring()
    original, got = (AutoConfig.from_pretrained(each).to_dict() for each in (checkpoint, directory))
    elsewhere = {"dtype", "transformers_version", "_name_or_path"}
    assert {k: v for k, v in got.items() if k not in elsewhere} == {
        k: v for k, v in original.items() if k not in elsewhere
    }
    ids = torch.randint(VOCABULARY, (1, 150), generator=torch.Generator().manual_seed(0))  # beyond the window
    models = [
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32).eval() for each in (checkpoint, directory)
    ]
    for parameter in models[0].parameters():
        parameter.data = parameter.data.bfloat16().float()
    with torch.no_grad():
        expected, logits = (model(input_ids=ids).logits for model in models)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-2 * float(expected.std()))


@FAMILIES
def test_the_engine_takes_the_file_itself_and_makes_the_directory_once(checkpoint, pieces, tmp_path):
    path = Exporter(checkpoint, vocabulary=pieces).write(tmp_path / "model.gguf")
    load = partial(
        FastLanguageModel.from_pretrained, load_in_4bit=False, device="cpu", cache_directory=tmp_path / "cache"
    )
    model, tokenizer = load(str(path))
    (directory,) = (tmp_path / "cache" / "gguf").iterdir()
    ids = torch.tensor([tokenizer("How many apples are left?").input_ids])
    assert ids[0, 0] == 2
    with torch.no_grad():
        # eager: the others leave out Gemma 2's soft-capping
        other = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
        expected = other(input_ids=ids).logits
        torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    made = (directory / "config.json").stat()
    os.utime(path)
    assert load(path)[0].fingerprint == model.fingerprint
    assert [each.name for each in (tmp_path / "cache" / "gguf").iterdir()] == [directory.name]
    assert (directory / "config.json").stat().st_ino == made.st_ino


@ANY
def test_a_head_of_its_own(checkpoint, tmp_path, bring):
    head = np.random.default_rng(0).standard_normal((VOCABULARY, 128), np.float32)
    directory = bring(change=lambda tensors: tensors.update({"output.weight": head}))
    assert not AutoConfig.from_pretrained(directory).tie_word_embeddings
    assert torch.equal(weights_of(directory)["lm_head.weight"], torch.from_numpy(head).bfloat16())


@ANY
def test_the_same_file_has_the_same_name_and_another_has_another(bring, tmp_path):
    first = bring()
    assert bring() == first
    assert bring(keys={"general.name": "another"}) != first


@ANY
def test_many_files_and_many_blocks(checkpoint, bring, tmp_path, monkeypatch):
    whole = weights_of(bring())
    file = open_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", 1000)
    written: list[int] = []
    (tmp_path / "shards").mkdir()
    tensors = targets(file, read_hyperparameters(file))
    weights.write_weights(tmp_path / "shards", tensors, written.append, shard_bytes=200_000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    assert sum(written) == weights.bytes_of(tensors) and len(written) > 100
    sharded = weights_of(tmp_path / "shards")
    assert sharded.keys() == whole.keys() and all(torch.equal(sharded[name], whole[name]) for name in whole)
    Checkpoint(tmp_path / "shards")  # looks its index over


@ANY
def test_a_model_in_pieces(checkpoint, pieces, bring, tmp_path):
    whole = weights_of(bring())
    Exporter(checkpoint, vocabulary=pieces, split_tensors=20).write(tmp_path / "split.gguf")
    files = sorted(tmp_path.glob("split-*.gguf"))
    assert len(files) == 3
    got = weights_of(imported(files[1], tmp_path / "split", cache=tmp_path / "cache"))
    assert all(torch.equal(got[name], whole[name]) for name in whole)
    files[2].unlink()
    with pytest.raises(ModelError, match="split-00003-of-00003.gguf is missing"):
        imported(files[0], tmp_path / "split", cache=tmp_path / "cache")


@pytest.mark.parametrize("checkpoint", ["gemma2"], indirect=True)
def test_a_k_quant(checkpoint, bring):
    """Q6_K, put together and taken apart again here: 6 bits, a scale for each 16 of them, one for all 256."""
    rows, columns = 128, 256  # attn_output
    rng = np.random.default_rng(0)
    quants = rng.integers(-32, 32, (rows, columns // 256, 256))
    scales = rng.integers(-128, 128, (rows, columns // 256, 16)).astype(np.int8)
    whole = (rng.random((rows, columns // 256)) * 1e-3).astype(np.float16)
    values = whole[..., None].astype(np.float32) * np.repeat(scales, 16, axis=-1) * quants

    blocks = (quants + 32).astype(np.uint8).reshape(rows, -1, 2, 4, 32)  # halves, quarters of them, 32 each
    low, high = blocks & 15, blocks >> 4
    ql = np.concatenate([low[:, :, :, 0] | low[:, :, :, 2] << 4, low[:, :, :, 1] | low[:, :, :, 3] << 4], -1)
    qh = high[:, :, :, 0] | high[:, :, :, 1] << 2 | high[:, :, :, 2] << 4 | high[:, :, :, 3] << 6
    parts = [
        ql.reshape(rows, -1, 128),
        qh.reshape(rows, -1, 64),
        scales.view(np.uint8),
        whole[..., None].view(np.uint8),
    ]
    stored = np.concatenate(parts, -1).reshape(rows, -1)

    raw = {"blk.1.attn_output.weight": (stored, gguf.GGMLQuantizationType.Q6_K)}
    got = weights_of(bring(raw=raw))["model.layers.1.self_attn.o_proj.weight"]
    assert torch.equal(got, torch.from_numpy(values.astype(np.float32).reshape(rows, columns)).bfloat16())


KEYS = [
    ("gemma2", {}, {"query_scalar": 50, "sliding": (True, False, True, False), "window": 64}),
    ("gemma2", {"gemma2.attention.scale": None}, {"query_scalar": 64}),
    ("gemma2", {"gemma2.attn_logit_softcapping": None}, {"attention_softcap": 50.0, "final_softcap": 3.0}),
    ("gemma3", {"gemma3.attention.sliding_window_pattern": None}, {"sliding": (True,) * 4}),
    ("gemma3", {"gemma3.attention.sliding_window_pattern": 3}, {"sliding": (True, True, False, True)}),
    ("gemma3", {"gemma3.attention.sliding_window": None}, {"sliding": (False,) * 4, "window": None}),
    ("gemma3", {"gemma3.rope.scaling.type": "none"}, {"rope_factor": 1.0, "rope_base": 1e6}),
    ("gemma3", {"gemma3.rope.freq_base_swa": None}, {"rope_base_sliding": 1e4, "rope_factor": 8.0}),
    ("gemma3", {"gemma3.expert_count": 0}, {"query_scalar": 50}),
    ("gemma3n", {}, {"sparsity": (0.95, 0.0, 0.0, 0.0, 0.0), "shared_layers": 2, "laurel_rank": 16, "streams": 2}),
    ("gemma3n", {"gemma3n.attention.shared_kv_layers": 2.0}, {"shared_layers": 2}),
    ("gemma3n", {"gemma3n.final_logit_softcapping": 20.0}, {"final_softcap": 20.0, "query_scalar": 1}),
]


@pytest.mark.parametrize(("checkpoint", "keys", "expected"), KEYS, indirect=["checkpoint"])
def test_what_keys_say_and_what_their_absence_says(checkpoint, pieces, tmp_path, keys, expected):
    path = Exporter(checkpoint, vocabulary=pieces, keys=keys).write(tmp_path / "model.gguf")
    read = read_hyperparameters(open_gguf(path))
    assert {name: getattr(read, name) for name in expected} == expected


def test_the_largest_gemma_scales_its_queries_otherwise(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "27b.gguf", "gemma3")
    for add, value in (
        (writer.add_context_length, 131072), (writer.add_embedding_length, 5376), (writer.add_block_count, 62),
        (writer.add_feed_forward_length, 21504), (writer.add_head_count, 32), (writer.add_head_count_kv, 16),
        (writer.add_key_length, 128), (writer.add_layer_norm_rms_eps, 1e-6), (writer.add_rope_freq_base, 1e6),
    ):  # fmt: skip
        add(value)
    for index in range(62):
        writer.add_tensor(f"blk.{index}.attn_norm.weight", np.zeros(8, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_hyperparameters(open_gguf(tmp_path / "27b.gguf")).query_scalar == 168


@pytest.mark.parametrize(
    ("family", "layers", "tensors"),
    [("gemma", 28, 254), ("gemma2", 46, 508), ("gemma3", 18, 236), ("gemma3n", 30, 727)],
)
def test_as_many_tensors_as_published_files_have(family, layers, tensors):
    """Of Gemma 7B, Gemma 2 27B, Gemma 3 270M and Gemma 3n E2B, as llama.cpp counts them when it loads one."""
    sizes = Hyperparameters(
        family=family, vocab=8, hidden=8, layers=layers, heads=1, kv_heads=1, head_dim=8, intermediate=(8,) * layers,
        context=8, eps=1e-6, tied=True, rope_base=1e4, rope_base_sliding=1e4, rope_factor=1.0, window=None,
        sliding=(False,) * layers, query_scalar=8, attention_softcap=None, final_softcap=None, streams=4, per_layer=8,
        laurel_rank=8, shared_layers=0, sparsity=(0.0,) * layers,
    )  # fmt: skip
    everything = {name: Tensor(name, target.shape, 0, Path(), 0) for name, target in expected(sizes).items()}
    assert len(targets(GgufFile(Path(), (), {}, everything), sizes)) == tensors


@pytest.mark.parametrize("checkpoint", ["gemma3n"], indirect=True)
def test_keys_and_values_that_shared_layers_do_not_need(checkpoint, bring, tmp_path):
    """Published files have them, as Google's checkpoints do; nothing reads them."""

    def add(tensors):
        for layer in (3, 4):
            for name in ("attn_k", "attn_v", "attn_k_norm"):
                tensors[f"blk.{layer}.{name}.weight"] = tensors[f"blk.2.{name}.weight"]

    directory = bring(change=add)
    assert "model.layers.4.self_attn.k_proj.weight" in weights_of(directory)
    load = partial(
        FastLanguageModel.from_pretrained, load_in_4bit=False, device="cpu", cache_directory=tmp_path / "cache"
    )
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(load(directory)[0](input_ids=ids).logits, load(bring())[0](input_ids=ids).logits)


@ANY
def test_the_command(checkpoint, pieces, tmp_path):
    path = Exporter(checkpoint, vocabulary=pieces).write(tmp_path / "model.gguf")
    words = ["import", str(path), f"paths.models={tmp_path / 'models'}", f"paths.cache={tmp_path / 'cache'}"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*words, "--name", "mine"])
        assert done.exit_code == 0 and str(tmp_path / "models" / "mine") in done.output
    record = json.loads((tmp_path / "models" / "mine" / "agentloop_gguf.json").read_text())
    assert record["files"] == ["model.gguf"]
    Exporter(checkpoint, vocabulary=pieces, type="F16").write(path)
    refused = CliRunner().invoke(app, [*words, "--name", "mine"]).exception
    assert "--name" in str(refused) and str(tmp_path / "models" / "mine") in str(refused)
    assert CliRunner().invoke(app, [*words, "--name", "../mine"]).exception.args[0].startswith("--name: ")
    assert CliRunner().invoke(app, words).exit_code == 0
    assert len(list((tmp_path / "models").iterdir())) == 2
