"""Kept activations in pinned host memory, copied beside the computation.

A layer's streams are 16 KB a token in Gemma 3n E4B, and its forward pass lasts longer than their way over the bus, so on cards
short of memory they wait outside. One copy is under way at a time; its source is released when the next layer hands in its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agentloop.engine.memory.activations import Activations
from agentloop.engine.memory.plans import ON_HOST


class HostStore:
    """Pinned buffers, one for each layer and field, made when first needed and kept.

    A buffer that has become too small stays too: a CUDA graph may hold its address.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[tuple[int, str], list[Tensor]] = {}
        self._held: dict[int, dict[str, Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._leaving: list[Tensor] = []
        self._arriving: dict[int, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which begins with no buffers."""
        return HostStore(self.device).__dict__

    def begin(self) -> None:
        """Forget what a step that failed has left here."""
        self._held.clear()
        self._leaving.clear()
        self._arriving.clear()

    def leave(self, index: int, act: Activations) -> None:
        """Copy what `act` holds to the host; the device's tensors go when the next layer has been computed."""
        side = self._side()
        if self._leaving:
            # Only then: a CUDA graph may not wait for what a stream did before the capture.
            torch.cuda.current_stream().wait_stream(side)
            self._leaving.clear()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for name in ON_HOST:
                if (tensor := getattr(act, name)) is not None:
                    self._held.setdefault(index, {})[name] = self._buffer(index, name, tensor)
                    self._held[index][name].copy_(tensor, non_blocking=True)
                    self._leaving.append(tensor)
                    setattr(act, name, None)

    def fetch(self, index: int, act: Activations, *, then: Activations | None) -> None:
        """Bring layer `index` back into `act`, and start on the one below it, whose activations `then` are."""
        self._leaving.clear()
        if index not in self._arriving:
            self._start(index)
        torch.cuda.current_stream().wait_stream(self._side())
        for name, tensor in self._arriving.pop(index).items():
            setattr(act, name, tensor)
        if then is not None:
            self._start(index - 1)

    def _start(self, index: int) -> None:
        # Allocated on the main stream, whose earlier work may still read the memory: the copy waits for that.
        held = self._held.pop(index)
        tensors = {name: torch.empty_like(buffer, device=self.device) for name, buffer in held.items()}
        side = self._side()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for name, tensor in tensors.items():
                tensor.copy_(held[name], non_blocking=True)
        self._arriving[index] = tensors

    def _side(self) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        return self._stream

    def _buffer(self, index: int, name: str, like: Tensor) -> Tensor:
        sizes = self._buffers.setdefault((index, name), [])
        if not sizes or sizes[-1].numel() < like.numel():
            sizes.append(torch.empty(like.numel(), dtype=like.dtype, pin_memory=True))
        return sizes[-1][: like.numel()].view(like.shape)
