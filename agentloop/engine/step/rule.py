"""Rules: how much each label's gradient counts, also where that depends on how probable the model finds the label now."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rule(Protocol):
    """A function of torch's that weighs labels between the head's forward and backward pass, so that one pass of each suffices.

    It runs inside a CUDA graph: it waits for nothing, and its result is finite where losses and columns are zero, which is what
    a padded batch is filled up with. Rules that are equal compute the same: a graph is recorded once for them.
    """

    def __call__(self, losses: Tensor, columns: Tensor) -> Tensor:
        """Return what each cross-entropy's gradient is multiplied by, [supervised].

        `losses` [supervised]: cross-entropies in nats, the negative log probabilities of the labels. `columns`
        [supervised, columns]: the batch's own, in the dtype of the losses.
        """

    def __hash__(self) -> int: ...

    def __eq__(self, other: object) -> bool: ...
