"""The residual sum behind attention and behind the feed-forward, with a norm on each side as Gemma 2 and 3 have it.

    total = residual + RMS(y; norm)                                            Gemma 1: total = residual + y
    normed = RMS(total; next_norm)

y is o_proj's output and next_norm the feed-forward's; or y is down_proj's and next_norm the next layer's or, behind the
last layer, the final one. Norm weights are given as they multiply: whoever loads them has added the 1 of Gemma's 1 + w,
and holds them in fp32, which in 16 bit would round the sum. Source: Gemma3DecoderLayer.forward and Gemma3RMSNorm in
transformers' modeling_gemma3.py, GemmaDecoderLayer.forward in modeling_gemma.py.
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
    rms,
    rms_backward,
    row_of,
)
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


def add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(the stream, the branch's output before its norm) -> (total, normed), all [tokens, hidden], any row stride.

    The stream may be fp32 where y and `normed` are 16 bit; without buffers both results are in its dtype. `total` may
    be `residual`. Without `norm` y is added as it is. Without `next_norm` it is the sum alone: `normed` is None.
    `y_scale` is what y was multiplied by to fit fp16; the result is the same as without.
    """
    op = triton_add_norm if takes_kernels(residual) else reference_add_norm
    return op(residual, y, norm=norm, next_norm=next_norm, eps=eps, y_scale=y_scale, total=total, normed=normed)


def add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor | None,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of `add_norm` -> (dsum, dy), all [tokens, hidden], any row stride.

    `dtotal` is the gradient that reaches `total` past the next branch, `dnormed` the one through it. `dsum` is that of
    the sum and belongs to the residual; without a buffer it has dtotal's dtype, and dy has y's. Outputs may be any of
    the gradients that come in. Without `next_norm` (`dnormed` and `total` may then be None) `dsum` is `dtotal` itself:
    nothing is copied, a buffer for it is left alone, and dy may not be `dtotal`.
    """
    op = triton_add_norm_backward if takes_kernels(y) else reference_add_norm_backward
    return op(dtotal, dnormed, total, y, norm=norm, next_norm=next_norm, eps=eps, y_scale=y_scale, dsum=dsum, dy=dy)


def _branch(y: Tensor, norm: Tensor | None, eps: float, y_scale: float) -> Tensor:
    # RMS(s y) with eps s^2 is RMS(y) with eps.
    return y / y_scale if norm is None else normalise(y, norm, eps * y_scale**2)


def reference_add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    unrounded = wide(residual) + _branch(wide(y), norm, eps, y_scale)
    if next_norm is None:
        return store(unrounded, total, residual.dtype), None
    # Normed from the unrounded sum: the kernel holds it in registers.
    following = normalise(unrounded, next_norm, eps)
    return store(unrounded, total, residual.dtype), store(following, normed, residual.dtype)


def reference_add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor | None,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    g = wide(dtotal)
    if next_norm is not None:
        g = g + normalise_backward(wide(dnormed), wide(total), next_norm, eps)
    dbranch = g / y_scale if norm is None else normalise_backward(g, wide(y), norm, eps * y_scale**2)
    return dtotal if next_norm is None else store(g, dsum, dtotal.dtype), store(dbranch, dy, y.dtype)


@triton.jit
def _add_norm_kernel(
    residual, y, norm, next_norm, total, normed, stride_residual, stride_y, stride_total, stride_normed, eps, y_eps,
    y_scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, NEXT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    t = row_of(residual, row, stride_residual, columns, inside)
    b_y = row_of(y, row, stride_y, columns, inside)
    if NORM:
        t += rms(b_y, row_of(norm, 0, 0, columns, inside), y_eps, WIDTH)
    else:
        t += b_y / y_scale
    put_row(total, row, stride_total, columns, inside, t)
    if NEXT:
        following = rms(t, row_of(next_norm, 0, 0, columns, inside), eps, WIDTH)
        put_row(normed, row, stride_normed, columns, inside, following)


@triton.jit
def _add_norm_backward_kernel(
    dtotal, dnormed, total, y, norm, next_norm, dsum, dy, stride_dtotal, stride_dnormed, stride_total, stride_y,
    stride_dsum, stride_dy, eps, y_eps, y_scale, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
    NEXT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    g = row_of(dtotal, row, stride_dtotal, columns, inside)
    if NEXT:
        dn = row_of(dnormed, row, stride_dnormed, columns, inside)
        t = row_of(total, row, stride_total, columns, inside)
        g += rms_backward(dn, t, row_of(next_norm, 0, 0, columns, inside), eps, WIDTH)
    if NORM:
        b_y = row_of(y, row, stride_y, columns, inside)
        db = rms_backward(g, b_y, row_of(norm, 0, 0, columns, inside), y_eps, WIDTH)
    else:
        db = g / y_scale
    if NEXT:
        put_row(dsum, row, stride_dsum, columns, inside, g)
    put_row(dy, row, stride_dy, columns, inside, db)


def triton_add_norm(
    residual: Tensor,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    total: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    rows, width = residual.shape
    total = buffer(total, residual.shape, residual)
    normed = None if next_norm is None else buffer(normed, residual.shape, residual)
    # What is not there is not touched: any pointer will do.
    following = total if normed is None else normed
    _add_norm_kernel[(rows,)](
        residual, y, *(total if w is None else w for w in (norm, next_norm)), total, following, residual.stride(0),
        y.stride(0), total.stride(0), following.stride(0), eps, eps * y_scale**2, y_scale, WIDTH=width,
        BLOCK=next_power_of_2(width), NORM=norm is not None, NEXT=next_norm is not None, num_warps=row_warps(width),
        **PRECISE,
    )  # fmt: skip
    return total, normed


def triton_add_norm_backward(
    dtotal: Tensor,
    dnormed: Tensor | None,
    total: Tensor | None,
    y: Tensor,
    *,
    norm: Tensor | None,
    next_norm: Tensor | None,
    eps: float,
    y_scale: float = 1.0,
    dsum: Tensor | None = None,
    dy: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows, width = y.shape
    dy = buffer(dy, y.shape, y)
    dsum = dtotal if next_norm is None else buffer(dsum, dtotal.shape, dtotal)
    # As above.
    tensors, outputs = tuple(y if t is None else t for t in (dtotal, dnormed, total, y)), (dsum, dy)
    _add_norm_backward_kernel[(rows,)](
        *tensors, *(y if w is None else w for w in (norm, next_norm)), *outputs,
        *(t.stride(0) for t in tensors + outputs), eps, eps * y_scale**2, y_scale, WIDTH=width,
        BLOCK=next_power_of_2(width), NORM=norm is not None, NEXT=next_norm is not None, num_warps=row_warps(width),
        **PRECISE,
    )  # fmt: skip
    return dsum, dy
