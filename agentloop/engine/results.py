"""What a step says about each supervised token besides the gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ROWS = 32
"""Rows whose distribution exists at once in fp32: 34 MB each time at Gemma 3n's vocabulary."""


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


class LogitsObserver:
    """Looks at each chunk of logits before the loss replaces them by their gradient. Waits for nothing."""

    def __init__(self, labels: Tensor, softcap: float, dtype: torch.dtype) -> None:
        self.labels, self.softcap = labels, softcap
        self.entropy = torch.empty(labels.shape, dtype=dtype, device=labels.device)
        self.top = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)

    def __call__(self, logits: Tensor, rows: slice) -> None:
        """`logits` [rows, words] before the soft-cap."""
        for start in range(rows.start, rows.stop, ROWS):
            part = slice(start, min(start + ROWS, rows.stop))
            chunk = logits[start - rows.start : part.stop - rows.start].to(self.entropy.dtype)
            log_p = torch.log_softmax(self.softcap * torch.tanh(chunk / self.softcap), dim=-1)
            self.entropy[part] = -(log_p.exp() * log_p).sum(-1)
            self.top[part] = log_p.argmax(-1) == self.labels[part]
