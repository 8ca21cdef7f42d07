"""A GGUF's tensors written as bf16 safetensors, a few megabytes at a time.

Sizes are known before any value is, so a file's header is written first and its tensors follow as they are dequantised:
what is in memory at once is one block of rows, however large the model.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from agentloop.errors import ModelError
from agentloop.gguf.file import Tensor, library, row_bytes
from agentloop.gguf.names import Target
from agentloop.model_directory.files import INDEX

BYTES = 2
"""Size of an element in bf16."""
SHARD_BYTES = 4 << 30
_BLOCK_ELEMENTS = 1 << 22
"""Number of elements that are dequantised at once."""

Advance = Callable[[int], None]
"""Is told how many more bytes have been written."""


def check_types(tensors: list[tuple[Tensor, Target]]) -> None:
    """Raises ModelError, naming file and tensor, for a type that the package `gguf` cannot dequantise."""
    for kind, tensor in {tensor.type: tensor for tensor, _ in tensors}.items():
        gguf = library(tensor.file)
        name = gguf.GGMLQuantizationType(kind)
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[name][1]), np.uint8), name)
        except NotImplementedError:
            raise ModelError(
                f"{tensor.file}: tensor {tensor.name} is {name.name}, which gguf cannot dequantise"
            ) from None


def bytes_of(tensors: list[tuple[Tensor, Target]]) -> int:
    """Return the bytes that the tensors take once they are written."""
    return sum(BYTES * math.prod(tensor.shape) for tensor, _ in tensors)


def write_weights(
    directory: Path, tensors: list[tuple[Tensor, Target]], advance: Advance, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write model.safetensors, or where that would be larger than `shard_bytes` several files and their index.

    Raises ModelError, naming file and tensor, for values that are no numbers.
    """
    shards: list[list[tuple[str, Tensor, Target, int]]] = [[]]
    size = 0
    for tensor, target in tensors:
        each = BYTES * math.prod(target.shape_each)
        for slice_, name in enumerate(target.names):
            if shards[-1] and size + each > shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append((name, tensor, target, slice_))
            size += each
    if len(shards) == 1:
        files = ["model.safetensors"]
    else:
        files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {name: file for file, shard in zip(files, shards) for name, *_ in shard}
        index = {"metadata": {"total_size": bytes_of(tensors)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    for file, shard in zip(files, shards):
        with (directory / file).open("wb") as out:
            _write_header(out, [(name, target.shape_each) for name, _, target, _ in shard])
            for _, tensor, target, slice_ in shard:
                for block in _blocks(tensor, target, slice_):
                    out.write(block)
                    advance(len(block))


def _write_header(out: BinaryIO, tensors: list[tuple[str, tuple[int, ...]]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors:
        start, end = end, end + BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    out.write(struct.pack("<Q", len(text)) + text)


def _blocks(tensor: Tensor, target: Target, slice_: int) -> Iterator[bytes]:
    """One slice of the tensor in bf16, some rows at a time."""
    gguf = library(tensor.file)
    kind, width = gguf.GGMLQuantizationType(tensor.type), row_bytes(tensor)
    count = math.prod(target.shape_each) // tensor.row_elements
    stored = np.memmap(tensor.file, np.uint8, "r", tensor.offset + slice_ * count * width, (count, width))
    step = max(1, _BLOCK_ELEMENTS // tensor.row_elements)
    for start in range(0, count, step):
        rows = stored[start : start + step]
        plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}.get(kind)
        values = rows.view(plain).astype(np.float32) if plain else gguf.dequantize(rows, kind)
        if not np.isfinite(values).all():
            raise ModelError(f"{tensor.file}: tensor {tensor.name} holds values that are no numbers")
        if target.shift:
            values = values + np.float32(target.shift)
        yield torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()
