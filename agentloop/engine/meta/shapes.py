"""Results on the meta device by their shapes alone: torch's own arithmetic there imports torch._dynamo when it is first used,
which takes as long as importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Shapes(TorchFunctionMode):
    """Inside it, what making a model computes from meta tensors is answered here. Everything else is torch's."""

    def __torch_function__(self, function: Any, types: Any, arguments: tuple = (), named: dict | None = None) -> Any:
        named = named or {}
        if function in _SIZES:
            operands = arguments[0] if isinstance(arguments[0], list) else arguments
            tensors = [each for each in operands if isinstance(each, Tensor)]
            first = tensors[0]
            if first.is_meta and first.is_floating_point() and all(each.dtype == first.dtype for each in tensors):
                return torch.empty(_SIZES[function](tensors, **named), dtype=first.dtype, device=first.device)
        elif function is torch.arange and torch.device(named.get("device", "cpu")).type == "meta":
            return torch.empty(*arguments, **named)
        return function(*arguments, **named)


def _broadcast(tensors: Sequence[Tensor]) -> Sequence[int]:
    return np.broadcast_shapes(*(each.shape for each in tensors))


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Sequence[int]:
    size = list(tensors[0].shape)
    size[dim] = sum(each.shape[dim] for each in tensors)
    return size


def _stacked(tensors: Sequence[Tensor]) -> Sequence[int]:
    return (len(tensors), *tensors[0].shape)


_ELEMENTWISE = (Tensor.add, Tensor.mul, Tensor.div, Tensor.clamp, Tensor.cos, Tensor.sin, torch.zeros_like)
_SIZES: dict[Any, Callable[..., Sequence[int]]] = {
    **dict.fromkeys(_ELEMENTWISE, _broadcast),
    torch.cat: _joined,
    torch.stack: _stacked,
}
