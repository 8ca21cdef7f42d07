"""A checkpoint directory written as one GGUF file, some megabytes at a time.

Tensors' names, shapes and shifts are those of names.py, the table by which files are read. Matrices are stored in the type
that is asked for, as far as types.py says.
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
from agentloop.gguf import keys, llama_library, types
from agentloop.gguf.configuration import read_configuration
from agentloop.gguf.file import library
from agentloop.gguf.hyperparameters import Hyperparameters
from agentloop.gguf.names import Target, expected
from agentloop.gguf.source import Source
from agentloop.gguf.vocabulary import read_vocabulary
from agentloop.model_directory import tensors
from agentloop.model_directory.configuration import read_architecture

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
    """Write the model in `directory` to `path`, whole or not at all; `kind` is one of types.py's.

    Raises SettingError for another kind; ModelError, naming file and setting or tensor, for a model that llama.cpp does not
    compute or a value that the type cannot hold; DiskError.
    """
    gguf = library(path)
    types.check(kind)
    tensors.check(directory)
    sizes = read_configuration(directory)
    keys.check(sizes, directory / "config.json")
    vocabulary = read_vocabulary(directory, sizes.vocab)
    source, clip = Source(directory), read_architecture(directory).coef_clip
    chosen = types.Types(sizes, kind)
    entries = [
        _Entry(name, target, gguf.GGMLQuantizationType[chosen.of(name, target)])
        for name, target in expected(sizes).items()
    ]
    with atomic(path) as temporary:
        writer = gguf.GGUFWriter(temporary, sizes.family)
        writer.add_type("model")
        writer.add_name(directory.name)
        writer.add_file_type(gguf.LlamaFileType[types.FILE_TYPES[kind]])
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
    if entry.type.name in types.LIBRARYS_OWN:
        elements, size = gguf.GGML_QUANT_SIZES[entry.type]
        return llama_library.quantize(values, int(entry.type), values.shape[1] // elements * size)
    return gguf.quantize(values, entry.type).tobytes()
