"""What the model's `forward` returns: a dictionary with attributes, as transformers' outputs are."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class CausalLMOutput(dict):
    """Result of `forward`, by key, by attribute and by index, as transformers' outputs are.

    With labels it holds everything but the logits, which never exist all at once in training; without labels only the logits.
    What is None has no key. With labels and without a gradient (evaluation) the logits are computed once something is done
    with them.
    """

    loss: Tensor | None = None
    """[] cross-entropy in nats, mean over the labels."""
    logits: Tensor | None = None
    """[batch, tokens, vocab] logits of the next token."""
    log_probs: Tensor | None = None
    """[batch, tokens - 1] fp32: log probability of each label given what stands before it; 0 where there is none."""
    entropy: Tensor | None = None
    """[batch, tokens - 1] entropy in nats of the distribution that the label is taken from."""
    is_top1: Tensor | None = None
    """[batch, tokens - 1] bool: the label is the most probable token."""
    label_mask: Tensor | None = None
    """[batch, tokens - 1] bool: there is a label."""

    def __init__(self, *items: Any, **values: Tensor | None) -> None:
        super().__init__(*items, **{name: value for name, value in values.items() if value is not None})
        self.__dict__.update(self)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.__dict__[key] = value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values in their order: the loss first where there is one, else the logits."""
        return tuple(self.values())
