"""Model directories that were copied in part, edited or mixed up: one line that begins with the file, before anything starts."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentloop.campaign.campaign import Campaign
from agentloop.campaign.outline import outline
from agentloop.errors import ModelError
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.project import CHECKOUT
from agentloop.settings import load

TINY = CHECKOUT / "models" / "tiny"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path) -> Path:
    return shutil.copytree(TINY, tmp_path / "model")


@pytest.fixture
def settings(model, tmp_path):
    return load(
        [f"model={model}", f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}"], profile="demo"
    )


def change(directory: Path, name: str, **values) -> None:
    text = json.loads((directory / name).read_text(encoding="utf-8"))
    (directory / name).write_text(json.dumps(text | values), encoding="utf-8")


def refused(settings) -> str:
    """What `run --dry-run` says, and a run too."""
    with pytest.raises(ModelError) as planned:
        outline(settings)
    with pytest.raises(ModelError) as opened:
        Campaign.open(settings)
    assert str(planned.value) == str(opened.value) and len(str(planned.value).splitlines()) == 1
    return str(planned.value)


def test_the_shipped_model(settings):
    assert "iterations" in outline(settings)
    assert Campaign.open(settings).base.startswith("base_")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not to be read: Expecting value"),
        (b'{"a": ', "not to be read: Expecting value"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe{\0}\0", "is UTF-16; save it as UTF-8"),
        (b'{"a": "caf\xe9"}', "is not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "not to be read: Expecting value"),
        (b"[" * 100_000, "not to be read: maximum recursion depth"),
        (b"\0" * 100, "holds a null character"),
    ],
)
def test_files_that_are_no_json_object(settings, model, name, content, message):
    (model / name).write_bytes(content)
    told = refused(settings)
    assert told.startswith(f"{model / name}") and message in told


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", WEIGHTS])
def test_a_directory_instead_of_a_file(settings, model, name):
    (model / name).unlink()
    (model / name).mkdir()
    assert refused(settings) == f"{model / name}: not to be read: a directory"


@pytest.mark.parametrize("name", ["tokenizer.json", WEIGHTS])
def test_a_pipe_instead_of_a_file(settings, model, name):
    (model / name).unlink()
    os.mkfifo(model / name)
    assert refused(settings) == f"{model / name}: not to be read: no regular file"


def test_a_byte_order_mark_does_no_harm(settings, model):
    (model / "config.json").write_bytes(b"\xef\xbb\xbf" + (model / "config.json").read_bytes())
    outline(settings)
    Campaign.open(settings)


def test_no_tokenizer(settings, model):
    (model / "tokenizer.json").unlink()
    assert refused(settings) == f"{model}: no tokenizer (tokenizer.json or tokenizer.model)"


@pytest.mark.parametrize("token", ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"])
def test_a_tokenizer_of_another_kind_of_model(settings, model, token):
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    (model / "tokenizer.json").write_text(text.replace(f'"{token}"', '"<else>"'), encoding="utf-8")
    assert refused(settings) == f"{model / 'tokenizer.json'}: it has no token {token}; a Gemma tokenizer is needed"


def test_a_tokenizer_of_a_larger_model(settings, model):
    text = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    for entry in text["added_tokens"]:
        entry["id"] += 100_000
    (model / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
    assert "has the id 10000" in refused(settings) and "config.json: vocab_size" in refused(settings)


def test_a_tokenizer_without_its_model(settings, model):
    change(model, "tokenizer.json", model={"type": "BPE"})
    assert refused(settings) == f"{model / 'tokenizer.json'}: it has no model with a vocab, so it is no tokenizer"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer.json", {"pre_tokenizer": {"type": "Nothing"}}),
        ("tokenizer.json", {"decoder": 7}),
        ("tokenizer_config.json", {"model_input_names": 0}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
    ],
)
def test_what_only_the_tokenizer_itself_knows_to_be_wrong(model, name, values):
    change(model, name, **values)
    with pytest.raises(ModelError) as error:
        load_tokenizer(model)
    assert str(error.value).startswith(f"{model / 'tokenizer.json'}: the tokenizer is not to be read: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda whole: b"", "not to be read as safetensors: its header is broken"),
        (lambda whole: whole[:4], "not to be read as safetensors: its header is broken"),
        (lambda whole: whole[:1000], "not to be read as safetensors: its header is broken"),
        (lambda whole: struct.pack("<Q", 2**62) + whole[8:], "not to be read as safetensors: its header is broken"),
        (lambda whole: struct.pack("<Q", 7) + b"not json", "not to be read as safetensors: its header is broken"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "its header is broken"),
        (lambda whole: whole[:-100], "truncated: 100 bytes of "),
    ],
)
def test_weights_that_are_broken(settings, model, spoil, message):
    whole = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(spoil(whole))
    told = refused(settings)
    assert told.startswith(f"{model / WEIGHTS}: ") and message in told


def test_an_index(settings, model):
    names = load_file(model / WEIGHTS)
    (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    outline(settings)
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors", "b": WEIGHTS}}))
    assert refused(settings) == f"{model / INDEX}: names model-00002-of-00002.safetensors, which is not there"
    for broken in ("{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{}"):
        (model / INDEX).write_text(broken)
        assert refused(settings).startswith(f"{model / INDEX}: ")


def opened(settings) -> str:
    with pytest.raises(ModelError) as error:
        Campaign.open(settings)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_tensors_that_are_missing_or_of_another_type(settings, model):
    tensors = load_file(model / WEIGHTS)
    name = next(name for name in tensors if "layers.1" in name and "gate_proj" in name)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, model / WEIGHTS)
    assert opened(settings) == f"{model}: the weights lack {name}"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, model / WEIGHTS)
    assert f"{name.rpartition('layers')[2]} is I8 in the weights, not BF16 or F16 or F32 or F64" in opened(settings)
    save_file(tensors | {name: tensors[name][:-1].contiguous()}, model / WEIGHTS)
    assert "in the weights" in opened(settings) and "by config.json" in opened(settings)


def test_a_model_of_another_kind(settings, model):
    for kind in ("llama", 7, None, {"a": 1}, ["gemma3n_text"]):
        change(model, "config.json", model_type=kind)
        assert opened(settings).startswith(f"{model / 'config.json'}: model_type {kind!r} is not supported")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\0"])
def test_a_broken_memory_of_fingerprints_is_made_anew(settings, tmp_path, content):
    base = Campaign.open(settings).base
    memory = tmp_path / "cache" / "fingerprints.json"
    memory.write_text(content)
    assert Campaign.open(settings).base == base and len(json.loads(memory.read_text())) >= 5
