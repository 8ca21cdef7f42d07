"""The model written for others: merged, as GGUF, or as a GGUF adapter; checked against what it computes itself.

Everything is written under a temporary name and gets its own when it has passed. What other programs make of it is asked by
agentloop/exports.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from agentloop import space
from agentloop.engine.export.merged import ONTO, Base, weights_under, write_merged
from agentloop.engine.io import adapter
from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import packed_weights
from agentloop.engine.models.families import load_weights
from agentloop.engine.step.model import LanguageModel
from agentloop.errors import ModelError, SettingError
from agentloop.exports import gguf_model, readers
from agentloop.exports.verification import Expected, Figures, expect
from agentloop.files import atomic
from agentloop.gguf import types
from agentloop.gguf.file import library
from agentloop.model_directory.configuration import is_packed
from agentloop.model_directory.files import weight_bytes
from agentloop.model_directory.fingerprint import default_cache
from agentloop.model_directory.tokenizer import load_tokenizer

ALIASES = {"not_quantized": "f16", "fast_quantized": "q8_0", "quantized": "q4_k_m"}
"""Unsloth's names for kinds of GGUF."""


def save_merged(
    model: LanguageModel,
    directory: Path,
    *,
    tokenizer: Any = None,
    base: Base | None = None,
    verify: bool = True,
    beside: Mapping[str, str] | None = None,
    expected: Expected | None = None,
    name: str | None = None,
) -> list[Figures]:
    """Write base and adapter as one checkpoint to `directory`, whole or not at all. `beside`: texts of further files by name;
    `expected`: what `ask_engine` gave, where that was asked for before; `name`: what the export is
    called in messages, by default as its directory.

    Raises SettingError where `directory` exists, ModelError where transformers does not compute the same from it, DiskError.
    """
    base = _base(model, base)
    figures: list[Figures] = []

    def finish(written: Path) -> None:
        _add(tokenizer, written)
        if verify:
            own = ask_engine(model, tokenizer, base) if expected is None else expected
            figures.append(readers.check_directory(written, own, name=name or directory.name))
            gguf_model.record(written, figures)

    _merge(model, directory, base, beside, finish)
    return figures


def save_gguf(
    model: LanguageModel,
    directory: Path,
    *,
    tokenizer: Any = None,
    kinds: Sequence[str],
    base: Base | None = None,
    as_adapter: bool = False,
    verify: bool = True,
    beside: Mapping[str, str] | None = None,
    expected: Expected | None = None,
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
    if verify and expected is None:
        expected = ask_engine(model, tokenizer, base)
    name = _directory(model).name
    _require_room(model, directory)
    with atomic(directory) as temporary:
        temporary.mkdir()
        scratch = temporary / "scratch"
        if as_adapter:
            adapter.save(model.lora, scratch, base=model.fingerprint, model=model.directory)
            source = _source(model, base)
            figures = gguf_model.write_adapter(scratch, source, temporary, name=name, kind=chosen[0], expected=expected)
        else:
            _merge(model, scratch, base, None, lambda written: _add(tokenizer, written))
            figures = gguf_model.write_models(scratch, temporary, name=name, kinds=chosen, expected=expected)
        shutil.rmtree(scratch)
        for file, text in (beside or {}).items():
            (temporary / file).write_text(text, encoding="utf-8")
    return figures


def check_adapter(model: LanguageModel, directory: Path, base: Base, expected: Expected, *, name: str) -> Figures:
    """Ask PEFT about the adapter in `directory` over the base that it goes onto. Raises ModelError where it is another."""
    return readers.check_adapter(directory, _source(model, base), expected, name=name)


def _base(model: LanguageModel, base: Base | None) -> Base:
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


def _directory(model: LanguageModel) -> Path:
    if model.directory is None:
        raise ModelError("the model has no directory: it was not loaded from a checkpoint")
    return model.directory


def _cache(model: LanguageModel) -> Path:
    return model.cache_directory or default_cache()


def _add(tokenizer: Any, directory: Path) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _source(model: LanguageModel, base: Base) -> Path:
    """The directory of the weights that the adapter goes onto."""
    return weights_under(base, _directory(model), _cache(model), model.quantization)


def _require_room(model: LanguageModel, directory: Path) -> None:
    """For the merged model, which is needed meanwhile, and a file of its size."""
    space.require(directory, 2 * weight_bytes(_directory(model)))


def _merge(model: LanguageModel, directory: Path, base: Base, beside: Mapping[str, str] | None, finish: Any) -> None:
    write_merged(
        model.lora, directory, base=base, model=_directory(model), cache=_cache(model),
        fingerprint=model.fingerprint, quantization=model.quantization, beside=beside, finish=finish,
    )  # fmt: skip


def ask_engine(model: LanguageModel, tokenizer: Any, base: Base) -> Expected:
    """Return what the engine itself computes with the adapter on the base that it goes onto."""
    own = base == _base(model, None) or is_packed(_directory(model))
    computing = model if own else _on(model, base)
    words = load_tokenizer(_directory(model)) if tokenizer is None else tokenizer
    return expect(computing, words, str(model.dtype).removeprefix("torch."))


def _on(model: LanguageModel, base: Base) -> LanguageModel:
    """The same adapter on the other base."""
    directory = _directory(model)
    checkpoint, packed = Checkpoint(directory), None
    if base == "dequantised":
        packed = packed_weights(model.shape, checkpoint, model.fingerprint, _cache(model), model.device)
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
