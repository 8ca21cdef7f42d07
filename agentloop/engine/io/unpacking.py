"""bitsandbytes' four bits as the engine holds them: taken over as they are where they are double-quantised NF4.

What is packed otherwise (fp4, scales in fp32, blocks that cross rows or have another size) becomes a plain matrix of the same
numbers: each is its level times its block's scale in fp32, rounded once to the dtype that quant_state names.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from agentloop.model_directory.bitsandbytes import PackedState
from agentloop_kernels.blockwise import dynamic_code
from agentloop_kernels.nf4 import BLOCK, NESTED_BLOCK, Nf4, nf4_code


def as_nf4(parts: Mapping[str, Tensor], state: PackedState) -> Nf4 | None:
    """The weight without unpacking it, None where it is packed otherwise. `parts`: tensors by what their names end with."""
    same = (
        (state.kind, state.blocksize, state.nested_blocksize) == ("nf4", BLOCK, NESTED_BLOCK)
        and len(state.shape) == 2
        and state.shape[1] % BLOCK == 0
        and torch.equal(parts["quant_map"].float(), nf4_code(torch.device("cpu")))
        and torch.equal(parts["nested_quant_map"].float(), dynamic_code(torch.device("cpu")))
    )
    if not same:
        return None
    rows, columns = state.shape
    return Nf4(
        packed=_bytes(parts["weight"]),
        absmax8=parts["absmax"].flatten(),
        absmax_scale=parts["nested_absmax"].flatten().float(),
        offset=torch.tensor(state.nested_offset, dtype=torch.float32),
        shape=(rows, columns),
    )


def unpacked(parts: Mapping[str, Tensor], state: PackedState, *, exact: bool = False) -> Tensor:
    """The weight [*state.shape] in the dtype that its state names; with `exact` in fp32, if the engine keeps it packed. `parts`
    as in `as_nf4`.
    """
    absmax = parts["absmax"].flatten()
    if state.nested_blocksize is not None:
        scale = parts["nested_absmax"].flatten().float().repeat_interleave(state.nested_blocksize)[: len(absmax)]
        absmax = parts["nested_quant_map"].float()[absmax.int()] * scale + state.nested_offset
    packed, levels = _bytes(parts["weight"]), parts["quant_map"].float()
    elements = torch.stack([levels[(packed >> 4).int()], levels[(packed & 15).int()]], dim=-1).flatten()
    elements = elements[: prod(state.shape)]
    scales = absmax.float().repeat_interleave(state.blocksize)[: len(elements)]
    dtype = torch.float32 if exact and as_nf4(parts, state) else getattr(torch, state.dtype)
    return (elements * scales).to(dtype).view(state.shape)


def _bytes(packed: Tensor) -> Tensor:
    """[bytes] whatever dtype they are stored as (bnb_4bit_quant_storage)."""
    return packed.contiguous().view(torch.uint8).flatten()
