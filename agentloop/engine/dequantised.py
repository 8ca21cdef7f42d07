"""The base as the trainer sees it: a checkpoint whose linears went through NF4 and back.

QLoRA trains an adapter on top of quantised weights. Served on the original ones it corrects errors that are not there.
This checkpoint, made once and named by its content, is what the adapter was trained on, for any server that reads
transformers checkpoints; it takes no more memory than the original.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.packed import FORMAT, packed_weights
from agentloop.files import atomic
from agentloop.model_directory.configuration import read_architecture
from agentloop.model_directory.files import weight_files
from agentloop.model_directory.fingerprint import base_fingerprint
from agentloop.records import NF4, Quantization
from agentloop_kernels.nf4 import dequantise


def dequantised_checkpoint(directory: Path, cache: Path, quantization: Quantization = NF4) -> Path:
    """The directory of the dequantised base under `cache`, written on the first call. Raises ModelError, DiskError."""
    fingerprint = base_fingerprint(directory, cache)
    own = "" if quantization == NF4 else f"-{quantization.named('').lstrip('-')}"
    path = cache / "dequantised" / f"{fingerprint}-{FORMAT}{own}"
    if path.is_dir():
        return path
    checkpoint = Checkpoint(directory)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    packed = packed_weights(
        read_architecture(directory), checkpoint, fingerprint, cache, device, in_16bit=quantization.in_16bit
    )
    weights = weight_files(directory)
    with atomic(path) as temporary:
        temporary.mkdir()
        for file in directory.iterdir():
            if file.suffix == ".safetensors" and file not in weights:
                continue  # left over, or of something else
            if file in weights:
                _rewrite(file, temporary / file.name, checkpoint.prefix, packed)
            elif file.is_file():
                shutil.copy(file, temporary / file.name)
    return path


def _rewrite(source: Path, target: Path, prefix: str, packed) -> None:
    """Copy a safetensors file, held in memory whole, with the packed linears replaced in their stored dtype."""
    tensors = {}
    with safe_open(source, framework="pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            linear = name.removeprefix(prefix).removesuffix(".weight")
            if name.startswith(prefix) and linear in packed:
                tensor = dequantise(packed.linear(linear), dtype=tensor.dtype).cpu()
            tensors[name] = tensor
        save_file(tensors, target, metadata=file.metadata())
