"""Results of a step for each supervised token, besides the gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class TokenResults:
    """Results for each supervised token: all [supervised], in the batch's order, on the model's device."""

    losses: Tensor
    """[supervised] fp32: cross-entropy in nats."""
    entropy: Tensor | None = None
    """[supervised] entropy in nats of the predicted distribution; None where it was not asked for."""
    top: Tensor | None = None
    """[supervised] bool: the label is the most probable token; None where it was not asked for."""

    def first(self, count: int) -> TokenResults:
        """Return the results of the first `count` tokens: without those that fill up a padded batch."""
        return self._each(lambda tensor: tensor[:count])

    def clone(self) -> TokenResults:
        """Return a copy that the next step does not overwrite."""
        return self._each(Tensor.clone)

    def _each(self, change) -> TokenResults:
        values = {name: getattr(self, name) for name in ("losses", "entropy", "top")}
        return replace(self, **{name: change(tensor) for name, tensor in values.items() if tensor is not None})
