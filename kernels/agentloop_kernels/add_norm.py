"""The residual sum with a norm on each side that Gemma 2 and 3 have behind attention and behind the feed-forward.

    total = residual + RMS(y; norm)
    normed = RMS(total; next_norm)

y is o_proj's output and next_norm the feed-forward's; or y is down_proj's and next_norm the next layer's or, behind the
last layer, the final one. Norm weights are given as they multiply: whoever loads them has added the 1 of Gemma's 1 + w,
and holds them in fp32, which in 16 bit would round the sum. Source: Gemma3DecoderLayer.forward and Gemma3RMSNorm in
transformers' modeling_gemma3.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.norm import (
    normalise,
    normalise_backward,
    put_row,
    reference_rms_norm_backward,
    rms,
    rms_backward,
    row_of,
    triton_rms_norm_backward,
)
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


def add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(the stream, the branch's output before its norm) -> (total, normed), all [tokens, hidden], any row stride.

    The stream may be fp32 where y and `normed` are 16 bit; without buffers both results are in its dtype. `total` may
    be `residual`. Without `next_norm` it is the sum alone: `normed` is None. `y_eps` differs from `eps` where y was
    scaled down to fit fp16: with y * s pass eps * s^2, and the result is exactly the same.
    """
    op = triton_add_norm if takes_kernels(residual) else reference_add_norm
    return op(residual, y, norm=norm, next_norm=next_norm, eps=eps, y_eps=y_eps, total=total, normed=normed)


def add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of `add_norm` -> (dsum, dy), all [tokens, hidden], any row stride.

    `dtotal` is the gradient that reaches `total` past the next branch, `dnormed` the one through it. `dsum` is that of
    the sum and belongs to the residual; without a buffer it has dtotal's dtype, and dy has y's. Outputs may be any of
    the gradients that come in. Without `next_norm` (and then `dnormed`) `dsum` is `dtotal` itself: nothing is copied,
    a buffer for it is left alone, and dy may not be `dtotal`.
    """
    op = triton_add_norm_backward if takes_kernels(total) else reference_add_norm_backward
    return op(dtotal, dnormed, total, y, norm=norm, next_norm=next_norm, eps=eps, y_eps=y_eps, dsum=dsum, dy=dy)


def reference_add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    unrounded = wide(residual) + normalise(wide(y), norm, eps if y_eps is None else y_eps)
    if next_norm is None:
        return store(unrounded, total, residual.dtype), None
    # Normed from the unrounded sum: the kernel holds it in registers.
    following = normalise(unrounded, next_norm, eps)
    return store(unrounded, total, residual.dtype), store(following, normed, residual.dtype)


def reference_add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    y_eps = eps if y_eps is None else y_eps
    if next_norm is None:
        return dtotal, reference_rms_norm_backward(dtotal, y, norm, y_eps, out=buffer(dy, y.shape, y))
    g = wide(dtotal) + normalise_backward(wide(dnormed), wide(total), next_norm, eps)
    dbranch = normalise_backward(g, wide(y), norm, y_eps)
    return store(g, dsum, dtotal.dtype), store(dbranch, dy, y.dtype)


@triton.jit
def _add_norm_kernel(
    residual, y, norm, next_norm, total, normed, stride_residual, stride_y, stride_total, stride_normed, eps, y_eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, NEXT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    t = row_of(residual, row, stride_residual, columns, inside)
    b_y = row_of(y, row, stride_y, columns, inside)
    t += rms(b_y, row_of(norm, 0, 0, columns, inside), y_eps, WIDTH)
    put_row(total, row, stride_total, columns, inside, t)
    if NEXT:
        following = rms(t, row_of(next_norm, 0, 0, columns, inside), eps, WIDTH)
        put_row(normed, row, stride_normed, columns, inside, following)


@triton.jit
def _add_norm_backward_kernel(
    dtotal, dnormed, total, y, norm, next_norm, dsum, dy, stride_dtotal, stride_dnormed, stride_total, stride_y,
    stride_dsum, stride_dy, eps, y_eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dt = row_of(dtotal, row, stride_dtotal, columns, inside)
    dn = row_of(dnormed, row, stride_dnormed, columns, inside)
    t = row_of(total, row, stride_total, columns, inside)
    b_y = row_of(y, row, stride_y, columns, inside)
    g = dt + rms_backward(dn, t, row_of(next_norm, 0, 0, columns, inside), eps, WIDTH)
    db = rms_backward(g, b_y, row_of(norm, 0, 0, columns, inside), y_eps, WIDTH)
    put_row(dsum, row, stride_dsum, columns, inside, g)
    put_row(dy, row, stride_dy, columns, inside, db)


def triton_add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    rows, width = residual.shape
    total = buffer(total, residual.shape, residual)
    normed = None if next_norm is None else buffer(normed, residual.shape, residual)
    # What the sum alone does not touch: any pointer will do.
    following, weight = (total, norm) if next_norm is None else (normed, next_norm)
    _add_norm_kernel[(rows,)](
        residual, y, norm, weight, total, following, residual.stride(0), y.stride(0), total.stride(0),
        following.stride(0), eps, eps if y_eps is None else y_eps, WIDTH=width, BLOCK=next_power_of_2(width),
        NEXT=next_norm is not None, num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return total, normed


def triton_add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor,
    y: Tensor,
    *,
    norm: Tensor,
    next_norm: Tensor | None,
    eps: float,
    y_eps: float | None = None,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    y_eps = eps if y_eps is None else y_eps
    dy = buffer(dy, y.shape, y)
    if next_norm is None:
        return dtotal, triton_rms_norm_backward(dtotal, y, norm, y_eps, out=dy)
    rows, width = y.shape
    dsum = buffer(dsum, dtotal.shape, dtotal)
    tensors, outputs = (dtotal, dnormed, total, y), (dsum, dy)
    _add_norm_backward_kernel[(rows,)](
        *tensors, norm, next_norm, *outputs, *(t.stride(0) for t in tensors + outputs), eps, y_eps, WIDTH=width,
        BLOCK=next_power_of_2(width), num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return dsum, dy
