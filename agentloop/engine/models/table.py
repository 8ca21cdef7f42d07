"""A large embedding table that may stay in host memory: 4.7 GB of per-layer embeddings, of which a step reads 18 KB a token.

The table's pages are registered with CUDA once, so that the GPU reads the rows it wants over the bus by itself: no copy
on the device, no gather on the CPU, nothing to wait for.
"""

from __future__ import annotations

import torch
from torch import Tensor

INTEGER_OF = {2: (torch.int16, "<i2"), 4: (torch.int32, "<i4"), 8: (torch.int64, "<i8")}


class EmbeddingTable:
    """`weight` [rows, width] on the CPU, in `dtype`; moved to `device` unless `on_host`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, device: torch.device, *, on_host: bool) -> None:
        self.on_host = on_host and device.type != "cpu"
        self._dtype = dtype
        self._host: Tensor | None = None
        if self.on_host and not weight.is_meta:
            # Memory of our own, filled by all threads: pages of a file are copied one by one when they are registered, and
            # to register them read-only, without a copy, was seen to hang.
            self._host = torch.empty(weight.shape, dtype=dtype).copy_(weight)
            self._weight = _mapped(self._host, device)
        else:
            self._weight = weight.to(device, dtype)

    def rows(self, ids: Tensor) -> Tensor:
        """[tokens, width] of int64 ids on the model's device."""
        # Whole rows as 8-byte words: wide reads over the bus.
        return self._weight.view(torch.int64)[ids].view(self._dtype)

    @property
    def device_bytes(self) -> int:
        return 0 if self.on_host else self._weight.nbytes


class _Mapped:
    """Registered host memory, described as torch reads foreign CUDA memory."""

    def __init__(self, host: Tensor) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(host.shape),
            "typestr": INTEGER_OF[host.element_size()][1],
            "data": (host.data_ptr(), False),
            "version": 3,
        }


def _mapped(host: Tensor, device: torch.device) -> Tensor:
    """A CUDA tensor over the pages of `host`, which must outlive it."""
    cudart = torch.cuda.cudart()
    with torch.cuda.device(device):
        torch.cuda.check_error(cudart.cudaHostRegister(host.data_ptr(), host.nbytes, 0))
        return torch.as_tensor(_Mapped(host), device=device).view(host.dtype)
