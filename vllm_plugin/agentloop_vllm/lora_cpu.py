"""LoRA on the CPU: one pair of matrix products for each adapter in the batch.

vLLM's torch fallback gathers a copy of the adapter's matrices for every token, and reads slot -1, which stands for "no
adapter", as the last slot: requests to the base beside requests to an adapter then get the last slot's adapter. Here the
tokens of a step are grouped by adapter once, and tokens without one are left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """Takes the place of vLLM's `PunicaWrapperCPU` for linear layers; everything else is inherited."""

    groups: tuple[tuple[int, torch.Tensor | None], ...] = ()
    """(slot, row numbers of its tokens) of the current step; None where the slot has all rows."""

    def update_metadata(
        self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Called by vLLM before each step, with the adapter of every token."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self.groups = group_by_slot(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add each token's adapter to `y` [tokens, outputs] in place; `x` [tokens, inputs].

        `lora_a_stacked`: for each slice of the output [slots, 1, rank, inputs]; `lora_b_stacked`: [slots, 1, slice, rank].
        """
        for slot, rows in self.groups:
            inputs = x if rows is None else x.index_select(0, rows)
            first = 0
            for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                inner = torch.mm(inputs, a[slot, 0].t())
                part = y.narrow(1, first, size)
                if rows is None:
                    part.addmm_(inner, b[slot, 0].t(), alpha=scale)
                else:
                    part.index_add_(0, rows, torch.mm(inner, b[slot, 0].t()), alpha=scale)
                first += size


def group_by_slot(slots: torch.Tensor) -> tuple[tuple[int, torch.Tensor | None], ...]:
    """Rows of each slot in `slots` [tokens], -1 standing for none; None instead of rows where one slot has them all."""
    present = [slot for slot in torch.unique(slots).tolist() if slot >= 0]
    if len(present) == 1 and bool((slots == present[0]).all()):
        return ((present[0], None),)
    return tuple((slot, torch.nonzero(slots == slot).flatten()) for slot in present)
