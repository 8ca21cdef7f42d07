"""RMSNorm, and the row helpers that the fused kernels share.

RMS(x; w) = x r w with r = (mean(x^2) + eps)^-1/2; Gemma 1, 2 and 3 use 1 + w instead of w (`unit_offset`). Its gradient
is RMS'(dy) = r w dy - x r^3 mean(x w dy). Norm weights are frozen and get none. Source: Gemma3nRMSNorm
in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, unit_offset: bool = False, out: Tensor | None = None
) -> Tensor:
    """RMS(x; weight) over the last dimension. x [rows, width], weight [width] or None for 1."""
    return (triton_rms_norm if takes_kernels(x) else reference_rms_norm)(
        x, weight, eps, unit_offset=unit_offset, out=out
    )


def rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """dx = RMS'(dy) (+ residual). All [rows, width]; `out` may be `dy` or `residual`."""
    op = triton_rms_norm_backward if takes_kernels(x) else reference_rms_norm_backward
    return op(dy, x, weight, eps, unit_offset=unit_offset, residual=residual, out=out)


def normalise(x: Tensor, weight: Tensor | None, eps: float, unit_offset: bool = False) -> Tensor:
    """RMS(x; weight) without rounding: the reference's building block. x already wide."""
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    if weight is None:
        return y
    return y * (weight.to(x.dtype) + 1 if unit_offset else weight.to(x.dtype))


def normalise_backward(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float, unit_offset: bool = False) -> Tensor:
    """RMS'(dy) without rounding."""
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    weighted = dy if weight is None else dy * (weight.to(x.dtype) + unit_offset)
    return r * weighted - x * r**3 * (x * weighted).mean(-1, keepdim=True)


def reference_rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, unit_offset: bool = False, out: Tensor | None = None
) -> Tensor:
    return store(normalise(wide(x), weight, eps, unit_offset), out, x.dtype)


def reference_rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    dx = normalise_backward(wide(dy), wide(x), weight, eps, unit_offset)
    return store(dx if residual is None else dx + wide(residual), out, dy.dtype)


@triton.jit
def rms(x, w, eps, WIDTH: tl.constexpr):
    """x [BLOCK] -> RMS(x; w); columns past WIDTH hold 0 and stay 0."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps) * w


@triton.jit
def rms_backward(dy, x, w, eps, WIDTH: tl.constexpr):
    """RMS'(dy) [BLOCK]."""
    r = tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
    wdy = w * dy
    return r * wdy - x * (r * r * r * tl.sum(x * wdy, 0) / WIDTH)


@triton.jit
def row_of(pointer, row, stride, columns, inside):
    """One row in fp32 [BLOCK], 0 past the end."""
    return tl.load(pointer + row * stride + columns, inside, 0.0).to(tl.float32)


@triton.jit
def put_row(pointer, row, stride, columns, inside, value):
    tl.store(pointer + row * stride + columns, value.to(pointer.dtype.element_ty), inside)


@triton.jit
def _rms_norm_kernel(
    x, weight, out, stride_x, stride_out, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WEIGHTED: tl.constexpr, UNIT_OFFSET: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    b_x = row_of(x, row, stride_x, columns, inside)
    w = 1.0
    if WEIGHTED:
        w = tl.load(weight + columns, inside, 0.0).to(tl.float32) + UNIT_OFFSET
    put_row(out, row, stride_out, columns, inside, rms(b_x, w, eps, WIDTH))


@triton.jit
def _rms_norm_backward_kernel(
    dy, x, weight, residual, out, stride_dy, stride_x, stride_residual, stride_out, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WEIGHTED: tl.constexpr, UNIT_OFFSET: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    b_dy = row_of(dy, row, stride_dy, columns, inside)
    b_x = row_of(x, row, stride_x, columns, inside)
    w = 1.0
    if WEIGHTED:
        w = tl.load(weight + columns, inside, 0.0).to(tl.float32) + UNIT_OFFSET
    dx = rms_backward(b_dy, b_x, w, eps, WIDTH)
    if ADD:
        dx += row_of(residual, row, stride_residual, columns, inside)
    put_row(out, row, stride_out, columns, inside, dx)


def triton_rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, unit_offset: bool = False, out: Tensor | None = None
) -> Tensor:
    rows, width = x.shape
    out = buffer(out, x.shape, x)
    _rms_norm_kernel[(rows,)](
        x, x if weight is None else weight, out, x.stride(0), out.stride(0), eps, WIDTH=width,
        BLOCK=next_power_of_2(width), WEIGHTED=weight is not None, UNIT_OFFSET=int(unit_offset),
        num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return out


def triton_rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    rows, width = x.shape
    out = buffer(out, dy.shape, dy)
    added = dy if residual is None else residual
    _rms_norm_backward_kernel[(rows,)](
        dy, x, x if weight is None else weight, added, out, dy.stride(0), x.stride(0), added.stride(0), out.stride(0),
        eps, WIDTH=width, BLOCK=next_power_of_2(width), WEIGHTED=weight is not None, UNIT_OFFSET=int(unit_offset),
        ADD=residual is not None, num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return out
