"""A base computed in the other width, 16 bit or 32: the difference is what rounding does to its outputs."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from agentloop.engine.models.table import EmbeddingTable
from agentloop.engine.models.weights import LayerWeights, ModelWeights
from agentloop.engine.step.model import LanguageModel

Weights = TypeVar("Weights", bound=LayerWeights | ModelWeights)


def recast(model: LanguageModel) -> LanguageModel:
    """The same base, computed in fp32 where `model` is in 16 bit, otherwise in bf16, up to the head's input.

    What is large is shared, not copied.
    """
    dtype = torch.float32 if model.dtype.itemsize == 2 else torch.bfloat16
    layers = tuple(_cast(layer, dtype) for layer in model.weights.layers)
    return LanguageModel(
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
