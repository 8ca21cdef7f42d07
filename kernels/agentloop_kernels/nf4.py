"""NF4 with double quantisation, bit for bit as bitsandbytes stores and restores it.

    element 2i is the high nibble of byte i, 2i + 1 the low one, row-major over [rows, columns]; blocks of 64 elements
    absmax = code256[absmax8[block]] * absmax_scale[block / 256] + offset         two roundings in fp32, no fma
    weight = round(nf4[nibble] * absmax)                                          fp32 product, rounded once

0.516 bytes a weight. `offset` is the mean of the absmax values: its last bit depends on the machine that quantised, so
quantise once and keep the result. Source: QLoRA (arXiv 2305.14314) and bitsandbytes' backends/default/ops.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.blockwise import dynamic_code, quantise_blocks
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import BIT_EXACT

BLOCK = 64
NESTED_BLOCK = 256
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Nf4:
    """A packed matrix [rows, columns]. columns is a multiple of 64."""

    packed: Tensor
    """uint8 [rows * columns / 2]."""
    absmax8: Tensor
    """uint8 [blocks]: index into `dynamic_code`."""
    absmax_scale: Tensor
    """fp32 [ceil(blocks / 256)]."""
    offset: Tensor
    """fp32 []."""
    shape: tuple[int, int]

    def to(self, device: torch.device | str) -> Nf4:
        return Nf4(*(t.to(device) for t in (self.packed, self.absmax8, self.absmax_scale, self.offset)), self.shape)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.packed, self.absmax8, self.absmax_scale, self.offset))

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for a safetensors file; `from_tensors` is the inverse."""
        parts = {"packed": self.packed, "absmax8": self.absmax8, "absmax_scale": self.absmax_scale}
        return parts | {"offset": self.offset, "shape": torch.tensor(self.shape, dtype=torch.int64)}

    @staticmethod
    def from_tensors(parts: dict[str, Tensor]) -> Nf4:
        rows, columns = parts["shape"].tolist()
        return Nf4(parts["packed"], parts["absmax8"], parts["absmax_scale"], parts["offset"], (rows, columns))


@cache
def nf4_code(device: torch.device) -> Tensor:
    """The 16 levels, fp32 on `device`."""
    return torch.tensor(NF4_LEVELS, dtype=torch.float32, device=device)


def quantise(weight: Tensor) -> Nf4:
    """Pack [rows, columns], 16 or 32 bit, on its own device. Raises ValueError if columns is no multiple of 64."""
    rows, columns = weight.shape
    if columns % BLOCK:
        raise ValueError(f"NF4 needs a multiple of {BLOCK} columns, got {columns}")
    codes, absmax = quantise_blocks(weight.reshape(-1, BLOCK).float(), nf4_code(weight.device))
    offset = absmax.mean()
    centred = absmax - offset
    blocks = -(-centred.numel() // NESTED_BLOCK)
    padded = torch.nn.functional.pad(centred, (0, blocks * NESTED_BLOCK - centred.numel()))
    absmax8, scale = quantise_blocks(padded.view(blocks, NESTED_BLOCK), dynamic_code(weight.device))
    flat = codes.view(-1)
    packed = (flat[::2] << 4) | flat[1::2]
    return Nf4(packed, absmax8.view(-1)[: centred.numel()].contiguous(), scale, offset, (rows, columns))


def dequantise(weight: Nf4, *, dtype: torch.dtype = torch.bfloat16, out: Tensor | None = None) -> Tensor:
    """-> [rows, columns]. `out` may be a corner of a larger buffer (any row stride); its dtype wins over `dtype`."""
    op = triton_dequantise if takes_kernels(weight.packed) else reference_dequantise
    return op(weight, dtype=dtype, out=out)


def reference_dequantise(weight: Nf4, *, dtype: torch.dtype = torch.bfloat16, out: Tensor | None = None) -> Tensor:
    out = buffer(out, weight.shape, weight.offset, dtype)
    blocks = weight.absmax8.numel()
    scale = weight.absmax_scale.repeat_interleave(NESTED_BLOCK)[:blocks]
    absmax = dynamic_code(weight.packed.device)[weight.absmax8.int()] * scale + weight.offset
    levels = nf4_code(weight.packed.device)
    pairs = torch.stack([levels[(weight.packed >> 4).int()], levels[(weight.packed & 15).int()]], dim=-1)
    return out.copy_((pairs.view(blocks, BLOCK) * absmax.unsqueeze(-1)).view(weight.shape))


@triton.jit(do_not_specialize=["blocks"])
def _dequantise_kernel(
    packed, absmax8, absmax_scale, offset, levels, dynamic, out, blocks, blocks_per_row, stride_out,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < blocks
    code = tl.load(absmax8 + block, inside, 0).to(tl.int32)
    absmax = tl.load(dynamic + code) * tl.load(absmax_scale + block // 256, inside, 0.0) + tl.load(offset)
    at = block[:, None].to(tl.int64) * 32 + tl.arange(0, 32)[None, :]
    pairs = tl.load(packed + at, inside[:, None], 0).to(tl.int32)
    high = tl.load(levels + (pairs >> 4)) * absmax[:, None]
    low = tl.load(levels + (pairs & 15)) * absmax[:, None]
    row = (block // blocks_per_row).to(tl.int64)
    to = out + (row * stride_out + (block % blocks_per_row) * 64)[:, None] + tl.arange(0, 64)[None, :]
    tl.store(to, tl.interleave(high, low).to(out.dtype.element_ty), inside[:, None])


def triton_dequantise(weight: Nf4, *, dtype: torch.dtype = torch.bfloat16, out: Tensor | None = None) -> Tensor:
    out = buffer(out, weight.shape, weight.offset, dtype)
    blocks, height, device = weight.absmax8.numel(), 32, weight.packed.device
    _dequantise_kernel[(triton.cdiv(blocks, height),)](
        weight.packed, weight.absmax8, weight.absmax_scale, weight.offset, nf4_code(device), dynamic_code(device), out,
        blocks, weight.shape[1] // BLOCK, out.stride(0), BLOCKS=height, num_warps=4, **BIT_EXACT,
    )  # fmt: skip
    return out
