"""What the trainer's own forward says of a few prompts, with and without the adapter: the canary's yardstick.

Written beside the adapter's weights when it is saved, so that whoever serves the adapter, wherever, can check that what is
served is what was trained. With it comes how far 16-bit arithmetic alone moves these log probabilities: two right
implementations may differ by that much, and no tolerance need be guessed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from agentloop.engine.batch import join
from agentloop.engine.model import Gemma
from agentloop.engine.network import softcapped
from agentloop.engine.table import EmbeddingTable
from agentloop.engine.weights import LayerWeights, ModelWeights
from agentloop.errors import AdapterError
from agentloop.reading import read_object
from agentloop.records import Quantization

Weights = TypeVar("Weights", bound=LayerWeights | ModelWeights)
FILE = "reference.json"
PROMPTS = 8
MAX_TOKENS = 256
_HEAD_ROWS = 1 << 13
"""Of the head at once in another dtype: a copy of the whole would be 2 GiB, as much as two thirds of the model."""


@dataclass(frozen=True)
class Prompt:
    token_ids: tuple[int, ...]
    base: tuple[float, ...]
    """Log probability of each token given its prefix, without the adapter. [tokens - 1]"""
    adapted: tuple[float, ...]
    """The same with the adapter."""
    rounding: tuple[float, ...]
    """`base` in 16-bit arithmetic minus `base` in fp32, on the same weights."""


@dataclass(frozen=True)
class Reference:
    dtype: str
    """In which the trainer computed `base` and `adapted`: "float32", "bfloat16" or "float16"."""
    in_4bit: bool
    """The base's linears went through NF4: what was trained on is the dequantised base."""
    prompts: tuple[Prompt, ...]
    in_16bit: tuple[str, ...] = ()
    """The linears that were left in 16 bit all the same."""

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.in_4bit, self.in_16bit)

    @property
    def token_ids(self) -> list[tuple[int, ...]]:
        return [prompt.token_ids for prompt in self.prompts]


def measure_base(model: Gemma, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> Reference:
    """The base's log probabilities of the first sequences, before anything is trained; `adapted` is still empty.

    They are computed twice, in 16 bit and in fp32, so the time is spent here and not when somebody waits for the adapter: first
    all in one, then all in the other, which needs less memory than a training step.
    """
    half = model.dtype if model.dtype.itemsize == 2 else torch.bfloat16
    prompts_ids = [tuple(ids[:MAX_TOKENS]) for ids, _ in sequences[:PROMPTS]]
    measured = [model.logprobs(ids, adapter=False).double() for ids in prompts_ids]
    _make_room(model)
    other = _recast(model, torch.float32 if model.dtype == half else half)
    prompts = []
    for ids, own in zip(prompts_ids, measured, strict=True):
        others = _logprobs(other, ids).double()
        rounding = own - others if model.dtype == half else others - own
        prompts.append(Prompt(ids, tuple(own.tolist()), (), tuple(rounding.tolist())))
    _make_room(other)
    held = model.quantization
    return Reference(str(model.dtype).removeprefix("torch."), held.in_4bit, tuple(prompts), held.in_16bit)


def _make_room(model: Gemma) -> None:
    """On a card, forget the model's dequantised matrices; they are made again when asked for."""
    if model.device.type == "cuda":
        model.workspace.release()
        torch.cuda.empty_cache()


def write(directory: Path, model: Gemma, base: Reference) -> None:
    """Add the log probabilities under the trained adapter to those of the base, and store both in `directory`."""
    # All prompts at once: somebody waits for the adapter.
    losses = model.token_results(join([(ids, [True] * len(ids)) for ids in base.token_ids])).losses
    adapted = losses.neg().cpu().split([len(ids) - 1 for ids in base.token_ids])
    pairs = zip(base.prompts, adapted, strict=True)
    prompts = tuple(replace(prompt, adapted=tuple(values.tolist())) for prompt, values in pairs)
    (directory / FILE).write_text(json.dumps(asdict(replace(base, prompts=prompts))), encoding="utf-8")


def read(directory: Path) -> Reference:
    """Raises AdapterError where the adapter has none, or one that is broken or of another layout."""
    file = directory / FILE
    if not file.is_file():
        raise AdapterError(f"{directory}: no {FILE}; the trainer writes it when it saves an adapter")
    stored = read_object(file, AdapterError)
    try:
        prompts = tuple(
            Prompt(**{name: tuple(values) for name, values in prompt.items()}) for prompt in stored["prompts"]
        )
        reference = Reference(stored["dtype"], stored["in_4bit"], prompts, tuple(stored.get("in_16bit", ())))
        whole = bool(prompts) and all(map(_is_whole, prompts))
    except (TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise AdapterError(f"{file}: another layout than this version writes; train the adapter again")
    return reference


def _is_whole(prompt: Prompt) -> bool:
    rows = (prompt.base, prompt.adapted, prompt.rounding)
    return (
        all(type(token) is int for token in prompt.token_ids)
        and all(len(row) == len(prompt.token_ids) - 1 for row in rows)
        and all(type(value) is float for row in rows for value in row)
    )


def _recast(model: Gemma, dtype: torch.dtype) -> Gemma:
    """The same base, computed in `dtype` up to the head's input. What is large is shared, not copied."""
    layers = tuple(_cast(layer, dtype) for layer in model.weights.layers)
    return Gemma(
        model.shape,
        replace(_cast(model.weights, dtype, "embedding", "head"), layers=layers),
        fingerprint=model.fingerprint,
        device=model.device,
        dtype=dtype,
        max_seq_length=model.max_seq_length,
        memory_budget=model.memory_budget,
        resident=False,
        graphs=False,
    )


def _logprobs(model: Gemma, token_ids: Sequence[int]) -> Tensor:
    """What Gemma.logprobs gives, for a model whose head is in another dtype than it computes in. [len(token_ids) - 1]"""
    hidden = model.hidden(join([(token_ids, [True] * len(token_ids))]))
    labels = torch.tensor(token_ids[1:], device=hidden.device).unsqueeze(1)
    total = torch.full((len(labels),), -torch.inf, device=hidden.device)
    wanted = torch.zeros_like(total)
    for first, rows in zip(range(0, len(model.weights.head), _HEAD_ROWS), model.weights.head.split(_HEAD_ROWS)):
        logits = (hidden @ rows.to(hidden.dtype).t()).float()
        softcapped(logits, model.shape.softcap)
        total = torch.logaddexp(total, logits.logsumexp(-1))
        within = labels - first
        mine = (within >= 0) & (within < len(rows))
        wanted += torch.where(mine, logits.gather(1, within.clamp(0, len(rows) - 1)), 0.0).squeeze(1)
    return (wanted - total).cpu()


def _cast(weights: Weights, dtype: torch.dtype, *but: str) -> Weights:
    """Its tensors in `dtype`, but for those named and those that the engine keeps in fp32 whatever it computes in."""
    cast: dict[str, Any] = {}
    for name in {field.name for field in fields(weights)}.difference(but, weights.WIDE):
        value = getattr(weights, name)
        if isinstance(value, Tensor):
            cast[name] = value.to(dtype)
        elif isinstance(value, EmbeddingTable):
            cast[name] = _RecastTable(value, dtype)
    return replace(weights, **cast)


class _RecastTable:
    """Rows of an EmbeddingTable in another dtype."""

    def __init__(self, table: EmbeddingTable, dtype: torch.dtype) -> None:
        self._table, self._dtype = table, dtype
        self.device_bytes = 0

    def rows(self, ids: Tensor) -> Tensor:
        return self._table.rows(ids).to(self._dtype)
