"""A directory for llama.cpp and Ollama: GGUF files, each checked, and a Modelfile; with what the checks gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from agentloop.exports import modelfile, readers
from agentloop.exports.verification import Expected, Figures
from agentloop.gguf.adapter import write_gguf_adapter
from agentloop.gguf.exporting import write_gguf
from agentloop.model_directory.tokenizer import load_tokenizer

RECORD = "verification.json"
"""The figures of an export, beside it."""
ADAPTER = "adapter.gguf"


def write_models(
    model: Path, directory: Path, *, name: str, kinds: Sequence[str], expected: Expected | None
) -> list[Figures]:
    """Write the model in the directory `model` to `directory` as `name`-KIND.gguf, once for each kind, with a Modelfile for the
    first of them.

    `expected` is what the trainer says; None: nothing is checked. Raises ModelError, naming the file, where a file is not what
    was trained or cannot be written; SettingError for a kind.
    """
    figures = []
    for kind in kinds:
        file = directory / f"{name}-{kind}.gguf"
        write_gguf(model, file, kind)
        if expected is not None:
            figures.append(readers.check_file(file, expected, kind=kind))
    _finish(model, directory, f"{name}-{kinds[0]}.gguf", None, expected, figures)
    return figures


def write_adapter(
    adapter: Path, base: Path, directory: Path, *, name: str, kind: str, expected: Expected | None
) -> list[Figures]:
    """Write the PEFT adapter in `adapter` to `directory` as adapter.gguf, beside its base in the directory `base` as
    `name`-KIND.gguf, with a Modelfile that lays one over the other.

    Raises as `write_models` does, and AdapterError where the base has no place for the adapter.
    """
    file, own = directory / f"{name}-{kind}.gguf", directory / ADAPTER
    write_gguf(base, file, kind)
    write_gguf_adapter(adapter, base, own)
    figures = [] if expected is None else [readers.check_file(file, expected, kind=kind, adapter=own)]
    _finish(base, directory, file.name, ADAPTER, expected, figures)
    return figures


def _finish(
    model: Path, directory: Path, file: str, adapter: str | None, expected: Expected | None, figures: list[Figures]
) -> None:
    tokenizer = load_tokenizer(model)
    ends = [token for token in ("<end_of_turn>",) if token in tokenizer.get_vocab()]
    modelfile.write(directory / modelfile.NAME, tokenizer, model=file, adapter=adapter, stop=ends)
    if expected is not None:
        readers.check_modelfile(directory / modelfile.NAME, expected)
        record(directory, figures)


def record(directory: Path, figures: Sequence[Figures]) -> None:
    """Write what the checks gave beside the export."""
    (directory / RECORD).write_text(json.dumps([asdict(each) for each in figures], indent=2), encoding="utf-8")
