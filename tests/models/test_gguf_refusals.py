"""What is not read as a GGUF is refused in one line that names the file and what in it is at fault, and leaves nothing."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_exporter import Exporter, vocabulary
from typer.testing import CliRunner

from agentloop.cli.app import app
from agentloop.errors import AgentloopError, DiskError, ModelError, SettingError
from agentloop.gguf.file import open_gguf
from agentloop.gguf.hyperparameters import read_hyperparameters
from agentloop.gguf.importing import imported
from agentloop.gguf.names import targets
from agentloop.gguf.tokenizer import read_tokenizer
from agentloop.settings import load
from agentloop.tiny.architecture import random_checkpoint
from agentloop.tiny.gemma import random_gemma_checkpoint


@pytest.fixture(scope="module")
def pieces():
    return vocabulary(448)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("gemma3") / "model"
    random_gemma_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def gemma3n(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("gemma3n") / "model"
    random_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def good(gemma3, pieces, tmp_path_factory) -> bytes:
    return Exporter(gemma3, vocabulary=pieces).write(tmp_path_factory.mktemp("good") / "model.gguf").read_bytes()


def refusal(path: Path, error: type[AgentloopError] = ModelError) -> str:
    """The line, after having looked that nothing is left."""
    root = path.parent / "models"
    with pytest.raises(error) as raised:
        imported(path, root, cache=path.parent / "cache")
    assert "\n" not in str(raised.value)
    assert not root.exists() or not list(root.iterdir())
    return str(raised.value)


def drop(name: str):
    return lambda tensors: tensors.pop(name)


def put(name: str, value: np.ndarray):
    return lambda tensors: tensors.update({name: value})


def nan_in(name: str):
    def spoil(tensors):
        tensors[name] = np.full_like(tensors[name], np.nan)

    return spoil


EDITS = [
    ({"architecture": "llama"}, "key general.architecture: 'llama' is not supported (gemma, gemma2, gemma3, gemma3n)"),
    ({"architecture": "gemma4"}, "key general.architecture: 'gemma4'"),
    ({"keys": {"general.type": "mmproj"}}, "key general.type: 'mmproj'"),
    ({"change": drop("blk.2.ffn_up.weight")}, "tensor blk.2.ffn_up.weight is missing"),
    ({"change": drop("token_embd.weight")}, "tensor token_embd.weight is missing"),
    ({"change": put("rope_freqs.weight", np.ones(32))}, "tensor rope_freqs.weight is not one of gemma3's"),
    ({"change": put("v.patch_embd.weight", np.ones(32))}, "tensor v.patch_embd.weight is not one of gemma3's"),
    ({"change": put("blk.0.attn_k.bias", np.ones(128))}, "tensor blk.0.attn_k.bias is not one of gemma3's"),
    (
        {"change": put("blk.1.attn_q.weight", np.ones((256, 64)))},
        "tensor blk.1.attn_q.weight is [256, 64], its keys imply [256, 128]",
    ),
    ({"change": nan_in("blk.3.ffn_down.weight")}, "tensor blk.3.ffn_down.weight holds values that are no numbers"),
    (
        {"raw": {"blk.0.attn_q.weight": (np.zeros((256, 128), np.int8), gguf.GGMLQuantizationType.I8)}},
        "tensor blk.0.attn_q.weight is I8, which gguf cannot dequantise",
    ),
    ({"keys": {"gemma3.block_count": None}}, "key gemma3.block_count: is missing"),
    ({"keys": {"gemma3.block_count": 2**31 - 1}}, "key gemma3.block_count: 2147483647 layers"),
    ({"keys": {"gemma3.block_count": 3}}, "tensor blk.3."),
    ({"keys": {"gemma3.attention.head_count": "4"}}, "key gemma3.attention.head_count: '4' is not a whole number"),
    (
        {"keys": {"gemma3.attention.head_count_kv": [2, 2, 1, 2]}},
        "key gemma3.attention.head_count_kv: layers with 1 and 2",
    ),
    ({"keys": {"gemma3.rope.freq_base": float("nan")}}, "key gemma3.rope.freq_base: nan is not a number above 0"),
    ({"keys": {"gemma3.rope.scaling.type": "yarn"}}, "key gemma3.rope.scaling.type: 'yarn' is not supported"),
    ({"keys": {"gemma3.rope.dimension_count": 16}}, "key gemma3.rope.dimension_count: 16 is not supported (only 64)"),
    ({"keys": {"gemma3.rope.local.freq_base": 1e4}}, "key gemma3.rope.local.freq_base: is not known"),
    ({"keys": {"gemma3.expert_count": 8}}, "key gemma3.expert_count: is not known"),
    ({"keys": {"gemma3.attention.causal": False}}, "key gemma3.attention.causal: False is not supported"),
    ({"keys": {"gemma3.attention.scale": 0.13}}, "key gemma3.attention.scale: "),
    (
        {"keys": {"gemma3.attention.sliding_window_pattern": [True] * 3}},
        "sliding_window_pattern: 3 values, not one for each",
    ),
    ({"keys": {"tokenizer.ggml.model": "gpt2"}}, "key tokenizer.ggml.model: 'gpt2' is not supported"),
    (
        {"keys": {"tokenizer.ggml.token_type": [1, 2]}},
        "key tokenizer.ggml.token_type: is not one number for each of 448",
    ),
    (
        {"keys": {"tokenizer.ggml.bos_token_id": 448}},
        "key tokenizer.ggml.bos_token_id: 448 is not the number of a token",
    ),
    ({"keys": {"general.alignment": 12}}, "key general.alignment: 12 is not a power of two"),
    ({"keys": {"general.architecture": ["gemma3"]}}, "key general.architecture: ['gemma3'] is not of type str"),
    ({"keys": {"tokenizer.ggml.add_bos_token": 1}}, "key tokenizer.ggml.add_bos_token: 1 is not of type bool"),
    ({"change": put("blk.0.attn_q\n.weight", np.ones(8))}, "a tensor's name is 'blk.0.attn_q\\n.weight'"),
    ({"vocabulary": None}, "key tokenizer.ggml.model: None is not supported"),
]


@pytest.mark.parametrize(("options", "said"), EDITS)
def test_files_that_are_whole(gemma3, pieces, tmp_path, options, said):
    path = Exporter(gemma3, **{"vocabulary": pieces} | options).write(tmp_path / "model.gguf")
    line = refusal(path)
    assert line.startswith(str(path)) and said in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"keys": {"gemma3n.altup.num_inputs": 4}},
            "key gemma3n.altup.num_inputs: 4, but tensor altup_proj.weight holds 1",
        ),
        (
            {"keys": {"gemma3n.activation_sparsity_scale": [1.0, 2.0]}},
            "key gemma3n.activation_sparsity_scale: is not one",
        ),
        ({"change": drop("blk.0.laurel_l.weight")}, "tensor blk.0.laurel_l.weight is missing"),
        ({"change": drop("blk.1.attn_k.weight")}, "tensor blk.1.attn_k.weight is missing"),
        (
            {"keys": {"gemma3n.feed_forward_length": [384] * 4}},
            "key gemma3n.feed_forward_length: is not a whole number",
        ),
    ],
)
def test_gemma_3n_files_that_are_whole(gemma3n, pieces, tmp_path, options, said):
    path = Exporter(gemma3n, vocabulary=pieces, **options).write(tmp_path / "model.gguf")
    assert said in refusal(path)


@pytest.mark.parametrize("share", [0.0001, 0.003, 0.1, 0.5, 0.9, 0.99999])
def test_truncated(good, tmp_path, share):
    path = tmp_path / "model.gguf"
    path.write_bytes(good[: int(len(good) * share)])
    assert refusal(path).startswith(f"{path}: truncated: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no GGUF file"),
        (b"PK\x03\x04 something else", "is no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "version 1; only"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian; only"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "truncated: "),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "truncated: "),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"\xff" + struct.pack("<IB", 0, 1), "a key's name is not UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99), "key k has the type 99"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 8, 250, 0),
            "tensor t has the type 250",
        ),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 9, 8, 0), "tensor t: a row of 9"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<IQIQ", 1, 2**62, 0, 0),
            "tensor t are missing",
        ),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 1) + b"t" + struct.pack("<I", 70000), "tensor t has 70000 dimensions"),
    ],
)
def test_what_is_hardly_a_file(tmp_path, content, said):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith(f"{path}: ") and said in line


@pytest.mark.parametrize("family", ["gemma3", "gemma3n"])
def test_bytes_of_the_header_that_have_changed(family, request, pieces, tmp_path):
    """Either it is read, or it is a ModelError of one line: nothing else, whatever the byte."""
    path = Exporter(request.getfixturevalue(family), vocabulary=pieces).write(tmp_path / "model.gguf")
    good = path.read_bytes()
    end = min(tensor.offset for tensor in open_gguf(path).tensors.values())
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        content = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(4, end if rng.random() < 0.7 else 1500)
            content[place] = rng.choice((0, 1, 255, content[place] ^ 1 << rng.randrange(8)))
        path.write_bytes(content)
        try:
            file = open_gguf(path)
            targets(file, read_hyperparameters(file))
            read_tokenizer(file)
        except ModelError as error:
            refused += 1
            assert str(error).isprintable() and str(error).startswith(str(path))
    assert 50 < refused < 200


def test_paths_that_are_no_files(tmp_path):
    assert refusal(tmp_path / "absent.gguf").endswith("absent.gguf: no such file")
    assert refusal(tmp_path).endswith("a directory")


def test_no_space(good, tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(good)
    monkeypatch.setattr("agentloop.gguf.importing._SPARE_BYTES", 1 << 60)
    assert "are needed there" in refusal(tmp_path / "model.gguf", DiskError)


def test_without_the_package(good, tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(good)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)  # as if it were not installed
    assert refusal(tmp_path / "model.gguf").endswith("pip install gguf")


def test_the_command_and_the_setting(good, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(good[:-100])
    words = ["import", str(path), f"paths.models={tmp_path / 'models'}", f"paths.cache={tmp_path / 'cache'}"]
    assert str(CliRunner().invoke(app, words).exception).startswith(f"{path}: truncated: ")
    with pytest.raises(SettingError, match=f"^model: .* agentloop import {path}$"):
        load([f"model={path}"]).model_directory()
