"""What the model's `forward` returns: a dictionary with attributes, as transformers' outputs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


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


class LazyLogits(Tensor):
    """[batch, tokens, vocab] logits that `compute` returns, called when something is first done with them.

    A trainer asks for the logits of an evaluated batch without saying so beforehand, and they take more memory than the model.
    """

    @staticmethod
    def __new__(cls, size: tuple[int, ...], dtype: torch.dtype, device: torch.device, compute: Callable[[], Tensor]):
        return torch.Tensor._make_wrapper_subclass(cls, size, dtype=dtype, device=device)

    def __init__(self, size: Any, dtype: Any, device: Any, compute: Callable[[], Tensor]) -> None:
        self._compute, self._values = compute, None

    @property
    def computed(self) -> Tensor:
        """A plain tensor."""
        if self._values is None:
            self._values = self._compute()
        return self._values

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # shape, dtype, device: known without the values
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {}))


def _plain(value: Any) -> Any:
    return value.computed if isinstance(value, LazyLogits) else value
