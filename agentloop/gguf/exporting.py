"""A checkpoint directory written as one GGUF file, some megabytes at a time.

Tensors' names, shapes and shifts are those of names.py, the table by which files are read. Matrices are stored in the type
that is asked for; norms, AltUp's small matrices and whatever has rows of an odd length stay wider, as llama.cpp's own
converter leaves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.gguf import keys
from agentloop.gguf.configuration import read_configuration
from agentloop.gguf.file import library
from agentloop.gguf.hyperparameters import Hyperparameters
from agentloop.gguf.names import Target, expected
from agentloop.gguf.source import Source
from agentloop.gguf.vocabulary import read_vocabulary
from agentloop.model_directory import tensors
from agentloop.model_directory.configuration import read_architecture

TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
"""Type of the matrices -> what a file of it is called in its keys."""
_WIDE = ("altup_correct_coef", "altup_predict_coef", "altup_router")
"""Matrices of some thousand elements, by which everything else is multiplied: in fp32 whatever the type is."""
_CLIPPED = ("altup.prediction_coefs", "altup.correction_coefs")
"""What is limited in training, and by llama.cpp never."""
_BLOCK_ELEMENTS = 1 << 22
"""Number of elements that are converted at once."""


@dataclass(frozen=True)
class _Entry:
    """One tensor of the file."""

    name: str
    target: Target
    type: Any
    """gguf.GGMLQuantizationType."""


def write_gguf(directory: Path, path: Path, kind: str) -> None:
    """Write the model in `directory` to `path`, whole or not at all; `kind` is one of `TYPES`.

    Raises ModelError, naming file and setting or tensor, for a model that llama.cpp does not compute or a value that the type
    cannot hold; DiskError.
    """
    gguf = library(path)
    tensors.check(directory)
    sizes = read_configuration(directory)
    keys.check(sizes, directory / "config.json")
    vocabulary = read_vocabulary(directory, sizes.vocab)
    source, clip = Source(directory), read_architecture(directory).coef_clip
    entries = [
        _Entry(name, target, _type(gguf, name, target, kind)) for name, target in expected(sizes).items()
    ]
    with atomic(path) as temporary:
        writer = gguf.GGUFWriter(temporary, sizes.family)
        writer.add_type("model")
        writer.add_name(directory.name)
        writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        keys.write(writer, sizes)
        vocabulary.write(writer)
        for entry in entries:
            _announce(gguf, writer, entry)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (out,) = writer.fout
        writer.write_padding(out, out.tell())
        for entry in entries:
            written = 0
            for block in _blocks(source, entry.target, sizes, clip):
                written += out.write(_stored(gguf, block, entry, path))
            out.write(bytes(-written % writer.data_alignment))
        writer.close()


def _type(gguf: Any, name: str, target: Target, kind: str) -> Any:
    types = gguf.GGMLQuantizationType
    if len(target.shape) == 1 or kind == "f32" or any(part in name for part in _WIDE):
        return types.F32
    if kind == "q8_0" and (len(target.shape) == 3 or target.shape[-1] % gguf.GGML_QUANT_SIZES[types.Q8_0][0]):
        return types.F16
    return types[kind.upper()]


def _announce(gguf: Any, writer: Any, entry: _Entry) -> None:
    shape = gguf.quant_shape_to_byte_shape(entry.target.shape, entry.type)
    size = int(np.prod(shape))
    writer.add_tensor_info(entry.name, shape, np.dtype(np.uint8), size, raw_dtype=entry.type)


def _blocks(source: Source, target: Target, sizes: Hyperparameters, clip: float | None) -> Iterator[np.ndarray]:
    """The tensor's values in fp32 as the file holds them, [rows, columns] at a time."""
    shape = target.shape_each
    rows, columns = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
    step = max(1, _BLOCK_ELEMENTS // columns)
    for name in target.names:
        if not target.needed and name not in source:
            # what layers that share keys and values never read, and llama.cpp asks for
            yield from (np.zeros((min(step, rows - start), columns), np.float32) for start in range(0, rows, step))
            continue
        stored = source.rows(name)
        there = rows if len(shape) == 1 else stored.get_shape()[0]
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            block = stored[:] if len(shape) == 1 else stored[min(start, there) : min(stop, there)]
            values = block.to(torch.float32).reshape(-1, columns).numpy() - np.float32(target.shift)
            if clip is not None and any(part in name for part in _CLIPPED):
                values = values.clip(-clip, clip)
            if stop > there:  # transformers reads the first row where a table has no row of a token's own
                first = stored[:1].to(torch.float32).numpy()
                values = np.concatenate([values, np.repeat(first, stop - max(start, there), axis=0)])
            yield values


def _stored(gguf: Any, values: np.ndarray, entry: _Entry, path: Path) -> bytes:
    if entry.type == gguf.GGMLQuantizationType.F16:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16)
    if not np.isfinite(values).all():
        raise ModelError(f"{path}: tensor {entry.name} has values that {entry.type.name} cannot hold; bf16 can")
    if entry.type in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32):
        return values.tobytes()
    return gguf.quantize(values, entry.type).tobytes()
