"""A GGUF file made into a checkpoint directory, once: the same file gives the same directory under the same name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from agentloop import space
from agentloop.errors import ModelError, SettingError
from agentloop.files import atomic
from agentloop.gguf.file import GgufFile, open_gguf
from agentloop.gguf.hyperparameters import read_hyperparameters
from agentloop.model_directory.files import GGUF_RECORD as RECORD
from agentloop.model_directory.fingerprint import file_digests
from agentloop.naming import content_id
from agentloop.reading import read_object

_FORMAT = 1
"""Counts changes to what is made of a file, each of which gives it another name."""
_SPARE_BYTES = 100 << 20
"""For the tokenizer, and so that the disk is not full to the last byte."""

Begin = Callable[[int], Callable[[int], None]]
"""Is told how many bytes will be written, and gives what is to be told how many more have been."""


def imported(
    path: Path,
    root: Path,
    *,
    cache: Path,
    name: str | None = None,
    beside: Mapping[str, bytes] | None = None,
    begin: Begin = lambda total: lambda more: None,
) -> Path:
    """Return the directory under `root` that holds the model of the GGUF file `path`, made on the first call.

    Its name is `name`, or one that the file's content gives. `cache` is where the file's digest is remembered; `beside` are
    further files for the directory. Raises ModelError, naming the file and the tensor or key, for what is not read,
    SettingError where another model has `name`, DiskError.
    """
    file = open_gguf(path)
    made_from = {"sha256": file_digests(list(file.files), cache), "format": _FORMAT}
    directory = root / (name or content_id("gguf", made_from))
    if directory.exists():
        if not _is_made_from(directory, made_from):
            raise SettingError(f"{directory}: is there already, and was not made from {path}; choose another --name")
        return directory
    _write(file, directory, made_from, beside or {}, begin)
    return directory


def _is_made_from(directory: Path, made_from: dict) -> bool:
    try:
        record = read_object(directory / RECORD, ModelError)
    except ModelError:
        return False
    return {key: record.get(key) for key in made_from} == made_from


def _write(file: GgufFile, directory: Path, made_from: dict, beside: Mapping[str, bytes], begin: Begin) -> None:
    # imported when something is to be made: torch and transformers take seconds
    from agentloop.gguf import weights
    from agentloop.gguf.configuration import write_configuration
    from agentloop.gguf.names import targets
    from agentloop.gguf.tokenizer import read_tokenizer

    sizes = read_hyperparameters(file)
    tensors = targets(file, sizes)
    weights.check_types(tensors)
    space.require(directory.parent, weights.bytes_of(tensors) + _SPARE_BYTES)
    tokenizer = read_tokenizer(file)
    with atomic(directory) as temporary:
        temporary.mkdir()
        write_configuration(temporary, sizes, tokenizer)
        tokenizer.save_pretrained(temporary)
        for name, content in beside.items():
            (temporary / name).write_bytes(content)
        weights.write_weights(temporary, tensors, begin(weights.bytes_of(tensors)))
        record = {"files": [each.name for each in file.files]} | made_from
        (temporary / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
