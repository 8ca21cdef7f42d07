"""x W' for a few rows x and a packed W: every step of generation reads all weights once, and packed they are a quarter.

The weights are those of nf4.dequantise, rounded to x's dtype as there; sums are in fp32. A byte holds two neighbours of a row,
so that even and odd columns of x are multiplied apart and nothing is interleaved. One row of x takes no tensor cores.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.blockwise import dynamic_code
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.nf4 import BLOCK, Nf4, nf4_code, reference_dequantise
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import BIT_EXACT


def nf4_matmul(x: Tensor, weight: Nf4, *, out: Tensor | None = None) -> Tensor:
    """x [rows, columns] times W' [columns, outputs] -> [rows, outputs]. x and `out` may have any row stride.

    Each 16 rows read the weights once more: for many rows dequantise first.
    """
    op = triton_nf4_matmul if takes_kernels(x) else reference_nf4_matmul
    return op(x, weight, out=out)


def reference_nf4_matmul(x: Tensor, weight: Nf4, *, out: Tensor | None = None) -> Tensor:
    return torch.mm(x, reference_dequantise(weight, dtype=x.dtype).t(), out=out)


@triton.jit
def _nf4_matmul_kernel(
    x, packed, absmax8, absmax_scale, offset, levels, dynamic, out, rows, outputs, stride_x, stride_out,
    BLOCKS_PER_ROW: tl.constexpr, N: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * N + tl.arange(0, N)
    m = tl.program_id(1) * M + tl.arange(0, M)
    inside = n < outputs
    real = m < rows
    mean = tl.load(offset)
    single = tl.zeros([N, C, 32], tl.float32)
    several = tl.zeros([M, N], tl.float32)
    for start in range(0, BLOCKS_PER_ROW, C):
        column = start + tl.arange(0, C)
        there = inside[:, None] & (column < BLOCKS_PER_ROW)[None, :]
        block = n[:, None].to(tl.int64) * BLOCKS_PER_ROW + column[None, :]
        code = tl.load(absmax8 + block, there, 0).to(tl.int32)
        absmax = tl.load(dynamic + code) * tl.load(absmax_scale + block // 256, there, 0.0) + mean
        byte = tl.arange(0, 32)
        pairs = tl.load(packed + block[:, :, None] * 32 + byte[None, None, :], there[:, :, None], 0).to(tl.int32)
        high = (tl.load(levels + (pairs >> 4)) * absmax[:, :, None]).to(x.dtype.element_ty)
        low = (tl.load(levels + (pairs & 15)) * absmax[:, :, None]).to(x.dtype.element_ty)
        if M == 1:
            at = x + tl.program_id(1).to(tl.int64) * stride_x + column[:, None] * 64 + 2 * byte[None, :]
            kept = (column < BLOCKS_PER_ROW)[:, None] & (byte < 32)[None, :]
            single += high.to(tl.float32) * tl.load(at, kept, 0.0).to(tl.float32)[None, :, :]
            single += low.to(tl.float32) * tl.load(at + 1, kept, 0.0).to(tl.float32)[None, :, :]
        else:
            k = tl.arange(0, C * 32)
            at = x + m[:, None].to(tl.int64) * stride_x + (start * 64 + 2 * k)[None, :]
            kept = real[:, None] & (start + k // 32 < BLOCKS_PER_ROW)[None, :]
            even, odd = tl.load(at, kept, 0.0), tl.load(at + 1, kept, 0.0)
            several += tl.dot(even, tl.trans(tl.reshape(high, [N, C * 32])), input_precision="ieee")
            several += tl.dot(odd, tl.trans(tl.reshape(low, [N, C * 32])), input_precision="ieee")
    if M == 1:
        y = tl.sum(tl.sum(single, 2), 1)
        tl.store(out + tl.program_id(1).to(tl.int64) * stride_out + n, y.to(out.dtype.element_ty), inside)
    else:
        to = out + m[:, None].to(tl.int64) * stride_out + n[None, :]
        tl.store(to, several.to(out.dtype.element_ty), real[:, None] & inside[None, :])


def triton_nf4_matmul(x: Tensor, weight: Nf4, *, out: Tensor | None = None) -> Tensor:
    (rows, columns), (outputs, _), device = x.shape, weight.shape, x.device
    out = buffer(out, (rows, outputs), x)
    # One row: 512 bytes of weights for 128 threads, and enough programs for a card even where a layer has 512 outputs.
    n, m, c = (4, 1, 4) if rows == 1 else (16, 16, 2)
    _nf4_matmul_kernel[(triton.cdiv(outputs, n), triton.cdiv(rows, m))](
        x, weight.packed, weight.absmax8, weight.absmax_scale, weight.offset, nf4_code(device), dynamic_code(device),
        out, rows, outputs, x.stride(0), out.stride(0), BLOCKS_PER_ROW=columns // BLOCK, N=n, M=m, C=c, num_warps=4,
        **BIT_EXACT,
    )  # fmt: skip
    return out
