"""In which dtype to compute, and how to store: the two rules every reference obeys."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """`x` in the dtype it is computed in: fp64 stays fp64, everything else becomes fp32."""
    return x if x.dtype == torch.float64 else x.float()


def store(value: Tensor, out: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Round `value` once: into `out` if there is one, else into a new tensor of `dtype`."""
    return value.to(dtype) if out is None else out.copy_(value)


def buffer(out: Tensor | None, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`out`, or an uninitialised tensor of that shape on the device of `like`."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device) if out is None else out
