"""The model written for others: merged, as GGUF, or as a GGUF adapter; checked against what it computes itself.

Everything is written under a temporary name and gets its own when it has passed. What other programs make of it is asked by
agentloop/exports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from agentloop import space
from agentloop.engine import adapter
from agentloop.engine.checkpoint import Checkpoint
from agentloop.engine.dequantised import dequantised_checkpoint
from agentloop.engine.families import load_weights
from agentloop.engine.merged import ONTO, Base, write_merged
from agentloop.engine.packed import packed_weights
from agentloop.errors import ModelError, SettingError
from agentloop.exports import gguf_model, readers
from agentloop.exports.verification import Expected, Figures, expect
from agentloop.files import atomic
from agentloop.gguf import types
from agentloop.gguf.file import library
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.records import NF4

if TYPE_CHECKING:
    from agentloop.engine.model import Gemma

ALIASES = {"not_quantized": "f16", "fast_quantized": "q8_0", "quantized": "q4_k_m"}
"""Unsloth's names for kinds of GGUF."""


def save_merged(
    model: Gemma,
    directory: Path,
    *,
    tokenizer: Any = None,
    base: Base | None = None,
    verify: bool = True,
    beside: Mapping[str, str] | None = None,
) -> list[Figures]:
    """Write base and adapter as one checkpoint to `directory`, whole or not at all. `beside`: texts of further files by name.

    Raises SettingError where `directory` exists, ModelError where transformers does not compute the same from it, DiskError.
    """
    base = _base(model, base)
    figures: list[Figures] = []

    def finish(written: Path) -> None:
        if tokenizer is not None:
            tokenizer.save_pretrained(written)
        if verify:
            figures.append(readers.check_directory(written, _expected(model, tokenizer, base), name=directory.name))
            gguf_model.record(written, figures)

    _merge(model, directory, base, beside, finish)
    return figures


def save_gguf(
    model: Gemma,
    directory: Path,
    *,
    tokenizer: Any = None,
    kinds: Sequence[str],
    base: Base | None = None,
    as_adapter: bool = False,
    verify: bool = True,
    beside: Mapping[str, str] | None = None,
) -> list[Figures]:
    """Write GGUF files of the merged model, one for each kind, or of base and adapter apart, and a Modelfile, to `directory`,
    whole or not at all.

    Raises SettingError where `directory` exists or for a kind, ModelError where llama.cpp does not compute the same, DiskError.
    """
    base = _base(model, base)
    chosen = _kinds(kinds, as_adapter=as_adapter)
    if directory.exists():
        raise SettingError(f"{directory}: exists already; an export is written to a directory of its own")
    library(directory)
    expected = _expected(model, tokenizer, base) if verify else None
    name = _directory(model).name
    with _scratch(model, directory) as folder, atomic(directory) as temporary:
        scratch = Path(folder)
        temporary.mkdir()
        if as_adapter:
            adapter.save(model.lora, scratch / "adapter", base=model.fingerprint, model=model.directory)
            source = _source(model, base)
            figures = gguf_model.write_adapter(
                scratch / "adapter", source, temporary, name=name, kind=chosen[0], expected=expected
            )
        else:
            _merge(model, scratch / "merged", base, None, lambda written: _add(tokenizer, written))
            figures = gguf_model.write_models(
                scratch / "merged", temporary, name=name, kinds=chosen, expected=expected
            )
        for file, text in (beside or {}).items():
            (temporary / file).write_text(text, encoding="utf-8")
    return figures


def _base(model: Gemma, base: Base | None) -> Base:
    """The one that was asked for, or that the adapter was trained on."""
    if base is None:
        return "dequantised" if model.quantization.in_4bit else "bf16"
    if base not in ONTO:
        raise SettingError(f"base: {base!r} is neither 'bf16' nor 'dequantised'")
    return base


def _kinds(kinds: Sequence[str], *, as_adapter: bool) -> list[str]:
    chosen = list(dict.fromkeys(ALIASES.get(kind, kind) for kind in kinds))
    for kind in chosen:
        types.check(kind)
    if not chosen or as_adapter and len(chosen) > 1:
        raise SettingError(f"quantization_method: {list(kinds)!r} is not one kind of GGUF for the base of an adapter")
    return chosen


def _directory(model: Gemma) -> Path:
    if model.directory is None:
        raise ModelError("the model has no directory: it was not loaded from a checkpoint")
    return model.directory


def _add(tokenizer: Any, directory: Path) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _source(model: Gemma, base: Base) -> Path:
    """The directory of the weights that the adapter goes onto."""
    if base == "bf16":
        return _directory(model)
    quantization = model.quantization
    return dequantised_checkpoint(_directory(model), model.cache_directory, quantization if quantization.in_4bit else NF4)


def _scratch(model: Gemma, directory: Path) -> AbstractContextManager[str]:
    """A folder on the disk of `directory` for what is only needed meanwhile."""
    weights = sum(file.stat().st_size for file in _directory(model).glob("*.safetensors"))
    space.require(directory, 2 * weights)
    directory.absolute().parent.mkdir(parents=True, exist_ok=True)
    return TemporaryDirectory(prefix=f".{directory.name}-", suffix=".tmp", dir=directory.absolute().parent)


def _merge(model: Gemma, directory: Path, base: Base, beside: Mapping[str, str] | None, finish: Any) -> None:
    write_merged(
        model.lora, directory, base=base, model=_directory(model), cache=model.cache_directory,
        fingerprint=model.fingerprint, quantization=model.quantization, beside=beside, finish=finish,
    )  # fmt: skip


def _expected(model: Gemma, tokenizer: Any, base: Base) -> Expected:
    """What the engine itself computes on the base that the adapter goes onto."""
    computing = model if base == _base(model, None) else _on(model, base)
    words = load_tokenizer(_directory(model)) if tokenizer is None else tokenizer
    return expect(computing, words, str(model.dtype).removeprefix("torch."))


def _on(model: Gemma, base: Base) -> Gemma:
    """The same adapter on the other base."""
    directory = _directory(model)
    checkpoint, packed = Checkpoint(directory), None
    if base == "dequantised":
        packed = packed_weights(model.shape, checkpoint, model.fingerprint, model.cache_directory, model.device)
    weights = load_weights(
        model.shape, checkpoint, packed, device=model.device, dtype=model.dtype, positions=model.max_seq_length
    )
    other = type(model)(
        model.shape, weights, fingerprint=model.fingerprint, device=model.device, dtype=model.dtype,
        max_seq_length=model.max_seq_length, memory_budget=model.memory_budget, resident=model.device.type == "cpu",
        graphs=False, directory=directory, cache_directory=model.cache_directory,
    )  # fmt: skip
    other.attach_lora(model.lora.settings)
    with torch.no_grad():
        other.lora.parameters.copy_(model.lora.parameters)
    return other
