"""The model as generation uses it: prompts into the cache, then one token of each sequence a step."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch, join
from agentloop.engine.decoding.attention import CachedAttention
from agentloop.engine.decoding.cache import KeyValueCache
from agentloop.engine.decoding.groups import NoMatrices, for_decoding
from agentloop.engine.memory.activations import LayerInput
from agentloop.engine.memory.plans import Keep
from agentloop.engine.models.boundary import BoundaryKeys
from agentloop.engine.models.families import FAMILIES
from agentloop.engine.step.model import LanguageModel
from agentloop.engine.step.network import softcapped


class Decoder:
    """Continues `prompts`, each `copies` times, by at most `new` tokens.

    A step is the same computation whatever the positions, so that on CUDA it can be recorded as a graph. There weights are
    `stream`ed; on the CPU the dequantised matrices of training are at hand.
    """

    def __init__(
        self, model: LanguageModel, prompts: list[list[int]], *, new: int, copies: int = 1, stream: bool | None = None
    ) -> None:
        self.shape, self.network = model.shape, model.network
        self.lengths = [len(prompt) for prompt in prompts for _ in range(copies)]
        self.cache = KeyValueCache(
            model.shape, len(self.lengths), max(self.lengths) + new, device=model.device, dtype=model.dtype
        )
        stream = model.device.type != "cpu" if stream is None else stream
        workspace = NoMatrices(model.device, model.dtype)
        make = FAMILIES[model.shape.family].layer
        self.layers = []
        for stored, kind in zip(model.weights.layers, model.shape.layer_types, strict=True):
            weights = for_decoding(stored, None if stream else model.workspace)
            rope = model.weights.rope[kind]
            layer = make(model.shape, weights, workspace, rope)
            layer.attention = CachedAttention(model.shape, weights, workspace, rope)
            self.layers.append(layer)
            if layer.index == model.shape.boundary:
                self.boundary_keys = BoundaryKeys(model.shape, weights, workspace, rope, layer.input_norm)
        self._prompts, self._copies, self._model = prompts, copies, model

    @property
    def recordable(self) -> bool:
        """A CUDA graph cannot hold copies of weights that wait in host memory."""
        device = self._model.device
        parts = [weight for layer in self.layers for group in layer.weights.groups for _, weight in group.parts]
        return device.type == "cuda" and all(w.device == device for w in parts if isinstance(w, Tensor))

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
            # What takes the place of the packed batch's plan is read by CachedAttention alone.
            given = LayerInput(cast(Any, slots), positions, ple[:, index * shape.ple : (index + 1) * shape.ple])
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
