"""LoRA written beside and below a dequantised weight, so that one GEMM computes both.

    [ W    B ]    flat holds A_0 .. A_{m-1} [m * rank, inputs], then B_0 .. B_{m-1} [outputs of each, rank]
    [ s A  0 ]    B_i goes to its projection's rows and to columns inputs + i * rank .. inputs + (i + 1) * rank

One launch for all projections of a group instead of one copy for each matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.tiles import PRECISE

MOST_PROJECTIONS = 3
"""q, k and v."""


def write_lora(
    flat: Tensor, matrix: Tensor, rows: Sequence[slice], *, rank: int, inputs: int, outputs: int, scale: float
) -> None:
    """`flat`: the group's part of the LoRA buffer. `rows`: each projection's rows of `matrix`, ascending.

    matrix [outputs + tail, inputs + tail]; what is not A or B in its tail stays as it is (zero).
    """
    op = triton_write_lora if takes_kernels(flat) else reference_write_lora
    op(flat, matrix, rows, rank=rank, inputs=inputs, outputs=outputs, scale=scale)


def reference_write_lora(
    flat: Tensor, matrix: Tensor, rows: Sequence[slice], *, rank: int, inputs: int, outputs: int, scale: float
) -> None:
    used = rank * len(rows)
    torch.mul(flat[: used * inputs].view(used, inputs), scale, out=matrix[outputs : outputs + used, :inputs])
    start = used * inputs
    for index, part in enumerate(rows):
        height = part.stop - part.start
        block = flat[start : start + height * rank].view(height, rank)
        matrix[part, inputs + index * rank : inputs + (index + 1) * rank] = block
        start += height * rank


# Sizes are no constants: one compilation serves every group of projections.
@triton.jit(
    do_not_specialize=["outputs", "size_a", "size_b", "bound_1", "bound_2", "shift_0", "shift_1", "shift_2"]
)  # fmt: skip
def _write_lora_kernel(
    flat, matrix, stride, inputs, outputs, rank, size_a, size_b, bound_1, bound_2, shift_0, shift_1, shift_2, scale,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(flat + at, at < size_a + size_b, 0.0)
    in_a = at < size_a
    a_to = (outputs + at // inputs).to(tl.int64) * stride + at % inputs
    tl.store(matrix + a_to, (value.to(tl.float32) * scale).to(matrix.dtype.element_ty), in_a)
    b = at - size_a
    line = b // rank
    index = (line >= bound_1).to(tl.int32) + (line >= bound_2).to(tl.int32)
    row = line + tl.where(index == 0, shift_0, tl.where(index == 1, shift_1, shift_2))
    b_to = row.to(tl.int64) * stride + inputs + index * rank + b % rank
    tl.store(matrix + b_to, value, (b >= 0) & (b < size_b))


def triton_write_lora(
    flat: Tensor, matrix: Tensor, rows: Sequence[slice], *, rank: int, inputs: int, outputs: int, scale: float
) -> None:
    heights = [part.stop - part.start for part in rows]
    bounds = [sum(heights[:i]) for i in range(len(rows))] + [sum(heights)] * (MOST_PROJECTIONS - len(rows))
    shifts = [part.start - bound for part, bound in zip(rows, bounds, strict=False)] + [0] * (
        MOST_PROJECTIONS - len(rows)
    )
    size_a, size_b, block = rank * len(rows) * inputs, sum(heights) * rank, 1024
    _write_lora_kernel[(triton.cdiv(size_a + size_b, block),)](
        flat, matrix, matrix.stride(0), inputs, outputs, rank, size_a, size_b, bounds[1], bounds[2], *shifts, scale,
        BLOCK=block, num_warps=4, **PRECISE,
    )  # fmt: skip
