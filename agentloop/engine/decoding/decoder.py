"""The model as generation uses it: prompts into the cache, then one token of each sequence a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agentloop.engine.activations import LayerInput
from agentloop.engine.batch import IGNORED, PackedBatch, join
from agentloop.engine.boundary import BoundaryKeys
from agentloop.engine.decoding.attention import CachedAttention
from agentloop.engine.decoding.cache import KeyValueCache
from agentloop.engine.families import FAMILIES
from agentloop.engine.memory import Keep
from agentloop.engine.network import softcapped

if TYPE_CHECKING:
    from agentloop.engine.model import Gemma


class Decoder:
    """Continues `prompts`, each `copies` times, by at most `new` tokens.

    `step` is the same computation whatever the positions: on CUDA it may be captured as a graph.
    """

    def __init__(self, model: Gemma, prompts: list[list[int]], *, new: int, copies: int = 1) -> None:
        self.shape, self.network, self.workspace = model.shape, model.network, model.workspace
        self.lengths = [len(prompt) for prompt in prompts for _ in range(copies)]
        self.cache = KeyValueCache(
            model.shape, len(self.lengths), max(self.lengths) + new, device=model.device, dtype=model.dtype
        )
        make = FAMILIES[model.shape.family].layer
        weights = model.weights
        self.layers = []
        for each, kind in zip(weights.layers, model.shape.layer_types, strict=True):
            layer = make(model.shape, each, model.workspace, weights.rope[kind])
            layer.attention = CachedAttention(model.shape, each, model.workspace, weights.rope[kind])
            self.layers.append(layer)
        self.boundary_keys = self.network.boundary_keys
        self._prompts, self._copies, self._model = prompts, copies, model

    def read(self) -> Tensor:
        """Compute the prompts -> the logits of the first new token, [rows, vocab]."""
        lengths = [len(prompt) for prompt in self._prompts]

        def keep(layer: int, key: Tensor, value: Tensor) -> None:
            self.cache.fill(layer, key, value, lengths, self._copies)

        hidden = self._model.hidden(_last_tokens(self._prompts), keep)
        return self._logits(hidden).repeat_interleave(self._copies, 0)

    def step(self, token_ids: Tensor, positions: Tensor, longest: int | None = None) -> Tensor:
        """Ids [rows] at positions int32 [rows] -> the logits of the tokens after them, [rows, vocab].

        `longest` is the highest position, where the host knows it.
        """
        shape = self.shape
        places = self.cache.slots(positions, longest)
        streams, ple = self.network.embed(token_ids)
        for layer in self.layers:
            index = layer.index
            slots = places[shape.layer_types[index]]
            if index == shape.boundary:
                slots.put(self.cache.layers[index], *self.boundary_keys.forward(streams, positions))
            given = LayerInput(slots, positions, ple[:, index * shape.ple : (index + 1) * shape.ple])
            streams = layer.forward(
                layer.activations(streams), given, self.cache.layers, Keep.STREAMS, token_ids.numel()
            )
        return self._logits(self.network.embedding.unembed(streams)[0])

    def _logits(self, hidden: Tensor) -> Tensor:
        return softcapped(hidden @ self.network.weights.head.t(), self.shape.softcap)


def _last_tokens(sequences: list[list[int]]) -> PackedBatch:
    """A batch whose only labels (their values do not matter) sit at the last token of each sequence."""
    batch = join([(ids, [False] * len(ids)) for ids in sequences])
    batch.labels.fill_(IGNORED)[batch.cu_seqlens[1:].long() - 1] = 0
    return batch
