"""A GGUF file's header: its keys and where its tensors lie. Nothing of the tensors themselves is read here.

What a header says is checked against the file's length before anything is made of it, so a truncated or mistaken file is
told in one line and at once, whatever it claims to hold.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from agentloop.errors import ModelError
from agentloop.reading import check_regular

_Kind = TypeVar("_Kind")

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_MOST_NAME = 200
"""Characters of a key's or a tensor's name: the format allows more, nothing has them."""
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""How llama.cpp names the pieces of a model that it splits."""

_TEXT, _ARRAY = 8, 9
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""Type of a key's value, by GGUF's number for it."""


@dataclass(frozen=True)
class Tensor:
    """One tensor's place in a file, and how it is stored there."""

    name: str
    shape: tuple[int, ...]
    """Outermost dimension first, as torch has it; the file has it the other way round."""
    type: int
    """ggml's number of the type."""
    file: Path
    offset: int
    """In bytes from the file's beginning."""

    @property
    def row_elements(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class GgufFile:
    """The keys and tensors of one model, which may lie in several files."""

    path: Path
    """The file that was asked for; messages begin with it."""
    files: tuple[Path, ...]
    metadata: dict[str, Any]
    """Key -> number, text, or for arrays a list of texts or numpy's array of numbers."""
    tensors: dict[str, Tensor]

    def single(self, key: str, kind: type[_Kind], default: _Kind | None = None) -> _Kind | None:
        """Return the key's value, or `default` where it is absent. Raises ModelError where it is of another type."""
        return _single(self.path, self.metadata, key, kind, default)


def library(path: Path) -> ModuleType:
    """The package `gguf`, which knows the types of tensors. Raises ModelError, naming the file that needs it."""
    try:
        import gguf  # takes a second
    except ImportError:
        raise ModelError(f"{path}: reading a GGUF file takes the package gguf: pip install gguf") from None
    return gguf


def open_gguf(path: Path) -> GgufFile:
    """The header of `path`, and of the files that belong to it where it is one piece of several. Raises ModelError."""
    files = pieces(path)
    headers = [_read_header(file) for file in files]
    metadata = next(header[0] for header in headers)
    count = _single(path, metadata, "split.count", int, 1)
    if count > 1 and count != len(files):
        raise ModelError(
            f"{path}: is one of {count} files; the others are looked for beside it under llama.cpp's names, "
            f"NAME-00001-of-{count:05}.gguf and so on"
        )
    tensors: dict[str, Tensor] = {}
    for _, found in headers:
        for tensor in found:
            if tensor.name in tensors:
                raise ModelError(f"{tensor.file}: tensor {tensor.name} is there twice")
            tensors[tensor.name] = tensor
    promised = len(tensors) if len(files) == 1 else _single(path, metadata, "split.tensors.count", int, len(tensors))
    if promised != len(tensors):
        raise ModelError(
            f"{path}: its {len(files)} files hold {len(tensors)} tensors, split.tensors.count says {promised}"
        )
    return GgufFile(path, tuple(files), metadata, tensors)


def _single(path: Path, metadata: dict[str, Any], key: str, kind: type[_Kind], default: _Kind | None) -> _Kind | None:
    value = metadata.get(key, default)
    if value is not None and type(value) is not kind:
        raise ModelError(f"{path}: key {key}: {value!r:.60} is not of type {kind.__name__}")
    return value


def pieces(path: Path) -> list[Path]:
    """The files of the model that `path` is one of, in order. Raises ModelError where one is missing."""
    check_regular(path, ModelError, most=None)
    named = _PIECE.fullmatch(path.name)
    if named is None:
        return [path]
    count = int(named["count"])
    files = [path.with_name(f"{named['stem']}-{number:05}-of-{named['count']}.gguf") for number in range(1, count + 1)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{path}: is one of {count} files, of which {missing[0]} is missing")
    return files


def _read_header(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{path}: is no GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data).read()
    except OSError as error:
        raise ModelError(f"{path}: not to be read: {error.strerror}") from None


class _Header:
    """A place in a file that is read from front to back."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._position = path, data, len(MAGIC)

    def read(self) -> tuple[dict[str, Any], list[Tensor]]:
        version = self._number("<u4")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            kind = "big-endian" if swapped in _VERSIONS else f"version {version}"
            raise ModelError(f"{self._path}: {kind}; only little-endian files of version 2 and 3 are read")
        tensors, keys = self._number("<u8"), self._number("<u8")
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self._name("a key's name")
            metadata[key] = self._value(key, self._number("<u4"))
        entries = [self._entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & alignment - 1:
            raise ModelError(f"{self._path}: key general.alignment: {alignment!r} is not a power of two")
        start = -(-self._position // alignment) * alignment
        return metadata, [self._tensor(start, *entry) for entry in entries]

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise ModelError(f"{self._path}: truncated: it ends within its header, at byte {len(self._data):,}")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def _number(self, kind: str) -> Any:
        return np.frombuffer(self._take(np.dtype(kind).itemsize), kind)[0].item()

    def _text(self, what: str) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise ModelError(f"{self._path}: {what} is not UTF-8") from None

    def _name(self, what: str) -> str:
        name = self._text(what)
        if not name.isprintable() or len(name) > _MOST_NAME:
            raise ModelError(f"{self._path}: {what} is {name[:_MOST_NAME]!r}")
        return name

    def _value(self, key: str, kind: int) -> Any:
        if kind == _TEXT:
            return self._text(f"key {key}")
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ModelError(f"{self._path}: key {key} has the type {kind}, which GGUF does not know")
        inner, length = self._number("<u4"), self._number("<u8")
        if inner == _TEXT:
            return [self._text(f"key {key}") for _ in range(length)]
        if inner not in _NUMBERS:
            raise ModelError(f"{self._path}: key {key} is an array of type {inner}; only texts and numbers are read")
        element = np.dtype(_NUMBERS[inner])
        return np.frombuffer(self._take(length * element.itemsize), element)

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._name("a tensor's name")
        dimensions = self._number("<u4")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ModelError(f"{self._path}: tensor {name} has {dimensions} dimensions")
        shape = tuple(self._number("<u8") for _ in range(dimensions))[::-1]
        return name, shape, self._number("<u4"), self._number("<u8")

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> Tensor:
        tensor = Tensor(name, shape, kind, self._path, start + offset)
        missing = tensor.offset + tensor.rows * row_bytes(tensor) - len(self._data)
        if missing > 0:
            raise ModelError(f"{self._path}: truncated: {missing:,} bytes of tensor {name} are missing")
        return tensor


def row_bytes(tensor: Tensor) -> int:
    """Bytes of one row. Raises ModelError, naming the tensor, for a type that is unknown or does not divide a row."""
    gguf = library(tensor.file)
    try:
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.type)]
    except (ValueError, KeyError):
        raise ModelError(
            f"{tensor.file}: tensor {tensor.name} has the type {tensor.type}, which gguf does not know"
        ) from None
    if not tensor.row_elements or tensor.row_elements % elements:
        raise ModelError(
            f"{tensor.file}: tensor {tensor.name}: a row of {tensor.row_elements} is no whole blocks of {elements}"
        )
    return tensor.row_elements // elements * size
