"""What a step says about each supervised token besides the gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class TokenResults:
    """All [supervised], in the batch's order, on the model's device."""

    losses: Tensor
    """Cross-entropy in nats, fp32."""
    entropy: Tensor | None = None
    """Of the distribution that the model predicts, in nats; None where it was not asked for."""
    top: Tensor | None = None
    """bool: the label is the most probable token; None as above."""

    def first(self, count: int) -> TokenResults:
        """Without the rows that fill up a padded batch."""
        return self._each(lambda tensor: tensor[:count])

    def clone(self) -> TokenResults:
        return self._each(Tensor.clone)

    def _each(self, change) -> TokenResults:
        values = {name: getattr(self, name) for name in ("losses", "entropy", "top")}
        return replace(self, **{name: change(tensor) for name, tensor in values.items() if tensor is not None})
