"""The base as the trainer sees it: a checkpoint whose linears went through NF4 and back.

QLoRA trains an adapter on top of quantised weights. Served on the original ones it corrects errors that are not there.
This checkpoint, made once and named by its content, is what the adapter was trained on, for any server that reads
transformers checkpoints; it takes no more memory than the original. Of a base that comes in 4 bit itself it is what these
unpack to.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import FORMAT, packed_weights
from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.model_directory.configuration import is_packed, read_architecture
from agentloop.model_directory.files import INDEX, other_files, weight_files
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.reading import read_object
from agentloop.records import NF4, Quantization
from agentloop_kernels.nf4 import dequantise


def dequantised_checkpoint(
    directory: Path, cache: Path, quantization: Quantization = NF4, *, exact: bool = False
) -> Path:
    """The directory of the dequantised base under `cache`, written on the first call. Raises ModelError, DiskError.

    What was packed is written in the dtype that it was packed from, in which a card computes with it; with `exact` in fp32, as
    the engine computes with it on the CPU.
    """
    fingerprint = base_fingerprint(directory, cache)
    own = "" if quantization == NF4 or is_packed(directory) else f"-{quantization.named('').lstrip('-')}"
    path = cache / "dequantised" / f"{fingerprint}-{FORMAT}{'-fp32' if exact else ''}{own}"
    if path.is_dir():
        return path
    checkpoint = Checkpoint(directory)
    if checkpoint.packed:
        _unpack(checkpoint, path, exact=exact)
        return path
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packed = packed_weights(
        read_architecture(directory), checkpoint, fingerprint, cache, device, in_16bit=quantization.in_16bit
    )
    with atomic(path) as temporary:
        temporary.mkdir()
        for file in other_files(directory):
            shutil.copy(file, temporary / file.name)
        for file in weight_files(directory):
            _rewrite(file, temporary / file.name, checkpoint.prefix, packed, exact=exact)
    return path


def _unpack(checkpoint: Checkpoint, path: Path, *, exact: bool) -> None:
    """Write a checkpoint that comes in 4 bit as one in 16: every packed weight, those of towers too."""
    with atomic(path) as temporary:
        temporary.mkdir()
        for file in other_files(checkpoint.directory):
            if file.name != INDEX:
                shutil.copy(file, temporary / file.name)
        for file in weight_files(checkpoint.directory):
            _unpack_file(checkpoint, file, temporary / file.name, exact=exact)
        config = read_object(checkpoint.directory / "config.json", ModelError)
        del config["quantization_config"]
        (temporary / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        write_index(temporary)


def _unpack_file(checkpoint: Checkpoint, source: Path, target: Path, *, exact: bool) -> None:
    belonging = {name for weight in checkpoint.packed for name in checkpoint.beside(weight)}
    with safe_open(source, framework="pt") as file:
        tensors = {name: checkpoint.whole(name, exact=exact) for name in file.keys() if name not in belonging}
        save_file(tensors, target, metadata=file.metadata() or {"format": "pt"})


def write_index(directory: Path) -> None:
    """Write an index of the tensors where they are in more than one file, which transformers asks for."""
    files = sorted(directory.glob("*.safetensors"))
    if len(files) < 2:
        return
    where: dict[str, str] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), path.name)
    size = sum(path.stat().st_size for path in files)
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2)
    (directory / INDEX).write_text(text, encoding="utf-8")


def _rewrite(source: Path, target: Path, prefix: str, packed, *, exact: bool) -> None:
    """Copy a safetensors file, held in memory whole, with the packed linears replaced."""
    tensors = {}
    with safe_open(source, framework="pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            linear = name.removeprefix(prefix).removesuffix(".weight")
            if name.startswith(prefix) and linear in packed:
                dtype = torch.float32 if exact else tensor.dtype
                tensor = dequantise(packed.linear(linear), dtype=dtype).cpu()
            tensors[name] = tensor
        save_file(tensors, target, metadata=file.metadata())
