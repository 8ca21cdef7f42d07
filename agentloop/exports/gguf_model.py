"""A directory for llama.cpp and Ollama: GGUF files, each checked, and a Modelfile; with what the checks gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentloop.exports import modelfile, readers
from agentloop.exports.verification import EXACT, Expected, Figures
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

    `expected` is what the trainer says; None: nothing is checked. Where all kinds are quantised, one that is not is checked and
    removed before. Raises ModelError, naming the file, where a file is not what was trained or cannot be written; SettingError
    for a kind.
    """
    stored, tokenizer = readers.stored_kind(model), load_tokenizer(model)
    passing = [] if expected is None or any(kind in EXACT for kind in kinds) else [stored]
    figures = []
    for kind in (*passing, *sorted(kinds, key=lambda each: each not in EXACT)):
        file = directory / f"{name}-{kind}.gguf"
        write_gguf(model, file, kind)
        if expected is not None:
            figures.append(readers.check_file(file, expected, kinds=[stored, kind], tokenizer=tokenizer))
        if kind in passing:
            file.unlink()
    _finish(tokenizer, directory, f"{name}-{kinds[0]}.gguf", None, expected, figures)
    return figures


def write_adapter(
    adapter: Path, base: Path, directory: Path, *, name: str, kind: str, expected: Expected | None
) -> list[Figures]:
    """Write the PEFT adapter in `adapter` to `directory` as adapter.gguf, beside its base in the directory `base` as
    `name`-KIND.gguf, with a Modelfile that lays one over the other.

    Raises as `write_models` does, and AdapterError where the base has no place for the adapter.
    """
    stored, tokenizer = readers.stored_kind(base), load_tokenizer(base)
    own = directory / ADAPTER
    write_gguf_adapter(adapter, base, own)
    figures = []
    for each in [kind] if expected is None or kind in EXACT else [stored, kind]:
        file = directory / f"{name}-{each}.gguf"
        write_gguf(base, file, each)
        if expected is not None:
            figures.append(readers.check_file(file, expected, kinds=[stored, each], tokenizer=tokenizer, adapter=own))
        if each != kind:
            file.unlink()
    _finish(tokenizer, directory, f"{name}-{kind}.gguf", ADAPTER, expected, figures)
    return figures


def _finish(
    tokenizer: Any, directory: Path, file: str, adapter: str | None, expected: Expected | None, figures: list[Figures]
) -> None:
    ends = [token for token in ("<end_of_turn>",) if token in tokenizer.get_vocab()]
    modelfile.write(directory / modelfile.NAME, tokenizer, model=file, adapter=adapter, stop=ends)
    if expected is not None:
        readers.check_modelfile(directory / modelfile.NAME, expected)
        record(directory, figures)


def record(directory: Path, figures: Sequence[Figures]) -> None:
    """Write what the checks gave beside the export."""
    (directory / RECORD).write_text(json.dumps([asdict(each) for each in figures], indent=2), encoding="utf-8")
