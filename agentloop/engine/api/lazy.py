"""A tensor that is computed once something is done with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


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
