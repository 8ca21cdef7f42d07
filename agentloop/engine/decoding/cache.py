"""Keys and values of the tokens so far, of the layers that have their own.

A token at position p lies in slot p % slots. A sliding layer has as many slots as its window has keys: after a token's own
key is written, the ring holds what that token may see, no more and no less. Layers that share another's keys read them in
the same step, behind the layer that wrote them, so the same ring is right for them too. A prompt is different: its tokens see
windows that end before the last, so it is computed from all of its keys (prompt.py), and only then what is left is kept here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.memory.activations import Keys
from agentloop.model_directory.architecture import SLIDING, Architecture
from agentloop_kernels.launching import takes_kernels


@dataclass(frozen=True)
class Slots:
    """The places in the layers of one type that a step writes to and reads."""

    write: Tensor
    """int64 [rows * kv_heads]: slots among all those of one layer, in which the new keys go."""
    last: Tensor
    """int32 [rows]: the last slot that is seen."""
    span: int
    """No row sees slots from here on."""
    seen: Tensor | None
    """bool [rows, span]; None where all of them are seen, and where kernels read `last` instead."""

    def put(self, kept: tuple[Tensor, Tensor], key: Tensor, value: Tensor) -> None:
        """Write the new K and V [rows, kv_heads, head_dim] into a layer's."""
        for slots, new in zip(kept, (key, value), strict=True):
            slots.view(-1, slots.shape[-1]).index_copy_(0, self.write, new.flatten(0, 1))


class KeyValueCache:
    """Room for `rows` sequences of at most `longest` tokens."""

    def __init__(
        self, shape: Architecture, rows: int, longest: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape, self.rows, self.device = shape, rows, device
        self.sizes = {
            kind: min(longest, shape.window) if kind == SLIDING and shape.window is not None else longest
            for kind in shape.rope_theta
        }
        heads = torch.arange(rows * shape.kv_heads, device=device)
        self._first = {kind: heads * size for kind, size in self.sizes.items()}
        self.layers: Keys = {}
        """Layer -> K and V [rows, kv_heads, slots, head_dim], zero where nothing was written."""
        for index in range(shape.first_shared):
            size = (rows, shape.kv_heads, self.sizes[shape.layer_types[index]], shape.head_dim)
            self.layers[index] = (
                torch.zeros(size, device=device, dtype=dtype),
                torch.zeros(size, device=device, dtype=dtype),
            )

    def fill(self, layer: int, key: Tensor, value: Tensor, lengths: list[int], copies: int) -> None:
        """Keep what a prompt left: K and V [tokens, kv_heads, head_dim] of packed sequences of these lengths. Each becomes
        `copies` rows."""
        size = self.sizes[self.shape.layer_types[layer]]
        end = 0
        for row, length in enumerate(lengths):
            end += length
            kept = min(length, size)
            slots = torch.arange(length - kept, length, device=self.device) % size
            for cells, new in zip(self.layers[layer], (key, value), strict=True):
                cells[row * copies : (row + 1) * copies, :, slots] = new[end - kept : end].transpose(0, 1)

    def slots(self, positions: Tensor, longest: int | None) -> dict[str, Slots]:
        """Layer type -> where tokens at `positions` int32 [rows] go.

        `longest` is the highest position, where the host knows it: the reference then reads no further. Kernels need neither
        it nor the host.
        """
        places = {}
        for kind, size in self.sizes.items():
            first, slot = self._first[kind], positions.long() % size
            write = first + slot.repeat_interleave(self.shape.kv_heads, output_size=first.numel())
            span = size if longest is None else min(longest + 1, size)
            last = positions.clamp(max=size - 1)
            seen = None
            if not takes_kernels(positions) and not (self.rows == 1 and longest is not None):
                seen = torch.arange(span, device=self.device) <= last.unsqueeze(1)
                seen = None if bool(seen.all()) else seen
            places[kind] = Slots(write, last, span, seen)
        return places
