"""How far a quantised base is from the same base in 16 bit: KL divergence over the tokens that the model writes.

Everything is measured with one model in memory. Its linears are exchanged for what NF4 made of them, all of them, some or one,
and what follows each token is compared with what the base in 16 bit said.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.batch import join
from agentloop.engine.io.packed import PackedWeights
from agentloop.engine.step.model import LanguageModel
from agentloop.engine.step.network import softcapped
from agentloop_kernels.nf4 import Nf4

_ROWS = 64
"""Of logits at once: of Gemma's vocabulary 64 MiB in fp32, several times."""

Sequences = Sequence[tuple[Sequence[int], Sequence[bool]]]
"""(token_ids, mask): True at the tokens that the model wrote."""


@dataclass(frozen=True)
class Divergence:
    kl: float
    """KL(16 bit ‖ quantised) in nats, mean over the model's tokens."""
    same_choice: float
    """Share of the model's tokens at which both think the same token the likeliest."""
    tokens: int


class Comparison:
    """A base in 16 bit, and what it says of some sequences, beside its linears in NF4."""

    def __init__(self, model: LanguageModel, packed: PackedWeights, sequences: Sequences) -> None:
        """`model` is in 16 bit, without an adapter. A sequence needs a token of the model's behind its first token."""
        self._model, self._packed = model, packed
        self._groups = {
            name: group for layer in model.weights.layers for group in layer.groups for name, _ in group.parts
        }
        self.original = {
            name: weight
            for group in dict.fromkeys(self._groups.values())
            for name, weight in group.parts
            if name in packed
        }
        """The linears that can be packed, as they are in 16 bit."""
        self._batch = join([(list(ids), list(mask)) for ids, mask in sequences])
        self._expected = model.hidden(self._batch)

    def of(self, packed: Collection[str]) -> Divergence:
        """With these linears in NF4 and all others in 16 bit; the model is left as it was."""
        if not packed:
            return Divergence(0.0, 1.0, len(self._expected))
        for name in packed:
            self._exchange(name, self._packed.linear(name))
        try:
            hidden = self._model.hidden(self._batch)
        finally:
            for name in packed:
                self._exchange(name, self.original[name])
        kl = same = 0.0
        for before, after in zip(self._expected.split(_ROWS), hidden.split(_ROWS), strict=True):
            p, q = self._log_probabilities(before), self._log_probabilities(after)
            same += float((p.argmax(-1) == q.argmax(-1)).sum())
            kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))
        return Divergence(kl / len(hidden), same / len(hidden), len(hidden))

    def bytes_in_16bit(self, name: str) -> int:
        return 2 * self.original[name].numel()

    def bytes_packed(self, name: str) -> int:
        return self._packed.linear(name).nbytes

    def _exchange(self, name: str, weight: Nf4 | Tensor) -> None:
        group = self._groups[name]
        group.parts = [(each, weight if each == name else held) for each, held in group.parts]
        self._model.workspace.forget(group)

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocab] in fp32, or wider where the model computes so."""
        logits = hidden @ self._model.weights.head.t()
        logits = softcapped(logits if logits.dtype.itemsize > 2 else logits.float(), self._model.shape.softcap)
        return torch.log_softmax(logits, -1)
