"""From one embedding to n AltUp streams and back: projections rescaled to the magnitude of stream 0.

With rms(x) = mean(x^2)^1/2 and floor(x) = max(mean(x^2), 1e-5)^1/2:

    embed     S_j = h_j rms(S_0) / floor(h_j)                                h_j = W_j S_0,  j >= 1
    unembed   H = (C_0 + sum_j h_j rms(C_0) / floor(h_j)) / n                h_j = W_j C_j;  y = RMS(H; w)

Embeddings are frozen, so only `unembed` has a gradient. Source: Gemma3nTextModel.forward in modeling_gemma3n.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.norm import normalise, normalise_backward, put_row, rms, rms_backward, row_of
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps

MAGNITUDE_FLOOR = 1e-5


def embed_streams(first: Tensor, projected: Tensor, *, out: Tensor | None = None) -> Tensor:
    """first [tokens, hidden] and projected [n - 1, tokens, hidden] -> streams [n, tokens, hidden].

    `out[0]` may be `first` and `out[1:]` may be `projected`.
    """
    return (triton_embed_streams if takes_kernels(first) else reference_embed_streams)(first, projected, out=out)


def unembed_streams(
    first: Tensor, projected: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None
) -> Tensor:
    """C_0 [tokens, hidden], projected [n - 1, tokens, hidden], final norm's weight -> y [tokens, hidden]."""
    op = triton_unembed_streams if takes_kernels(first) else reference_unembed_streams
    return op(first, projected, weight, eps, out=out)


def unembed_streams_backward(
    dy: Tensor,
    first: Tensor,
    projected: Tensor,
    weight: Tensor,
    eps: float,
    *,
    dfirst: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of `unembed_streams` -> (dC_0 without the projections' share, dprojected [n - 1, tokens, hidden]).

    `dprojected` may be `projected`.
    """
    op = triton_unembed_streams_backward if takes_kernels(first) else reference_unembed_streams_backward
    return op(dy, first, projected, weight, eps, dfirst=dfirst, dprojected=dprojected)


def _scales(first: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """rms(first) [tokens, 1] and mean(projected^2) [n - 1, tokens, 1]."""
    return first.square().mean(-1, keepdim=True).sqrt(), projected.square().mean(-1, keepdim=True)


def _unembedded(first: Tensor, projected: Tensor) -> Tensor:
    target, power = _scales(first, projected)
    rescaled = projected * target / power.clamp_min(MAGNITUDE_FLOOR).sqrt()
    return (first + rescaled.sum(0)) / (1 + projected.shape[0])


def reference_embed_streams(first: Tensor, projected: Tensor, *, out: Tensor | None = None) -> Tensor:
    x, h = wide(first), wide(projected)
    target, power = _scales(x, h)
    rescaled = h * target / power.clamp_min(MAGNITUDE_FLOOR).sqrt()
    return store(torch.cat([x.unsqueeze(0), rescaled]), out, first.dtype)


def reference_unembed_streams(
    first: Tensor, projected: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None
) -> Tensor:
    return store(normalise(_unembedded(wide(first), wide(projected)), weight, eps), out, first.dtype)


def reference_unembed_streams_backward(
    dy: Tensor,
    first: Tensor,
    projected: Tensor,
    weight: Tensor,
    eps: float,
    *,
    dfirst: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    x, h = wide(first), wide(projected)
    width, n = x.shape[-1], 1 + h.shape[0]
    g = normalise_backward(wide(dy), _unembedded(x, h), weight, eps) / n
    target, power = _scales(x, h)
    inverse = power.clamp_min(MAGNITUDE_FLOOR).rsqrt()
    along = (g * h).sum(-1, keepdim=True) * inverse
    # Below the floor the divisor is constant and the direction term vanishes.
    direction = torch.where(power > MAGNITUDE_FLOOR, along * inverse * inverse / width, 0.0)
    dh = target * (inverse * g - h * direction)
    dx = g + x * along.sum(0) / (width * target)
    return store(dx, dfirst, dy.dtype), store(dh, dprojected, dy.dtype)


@triton.jit
def _embed_kernel(
    first, projected, out, stride_first, stride_stream, stride_row, stride_out_stream, stride_out_row,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    x = row_of(first, row, stride_first, columns, inside)
    target = tl.sqrt(tl.sum(x * x, 0) / WIDTH)
    put_row(out, row, stride_out_row, columns, inside, x)
    for j in tl.static_range(1, N):
        h = row_of(projected + (j - 1) * stride_stream, row, stride_row, columns, inside)
        h *= target * tl.rsqrt(tl.maximum(tl.sum(h * h, 0) / WIDTH, FLOOR))
        put_row(out + j * stride_out_stream, row, stride_out_row, columns, inside, h)


@triton.jit
def _unembed_kernel(
    first, projected, weight, out, stride_first, stride_stream, stride_row, stride_out, eps,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    x = row_of(first, row, stride_first, columns, inside)
    target = tl.sqrt(tl.sum(x * x, 0) / WIDTH)
    for j in tl.static_range(1, N):
        h = row_of(projected + (j - 1) * stride_stream, row, stride_row, columns, inside)
        x += h * (target * tl.rsqrt(tl.maximum(tl.sum(h * h, 0) / WIDTH, FLOOR)))
    y = rms(x / N, row_of(weight, 0, 0, columns, inside), eps, WIDTH)
    put_row(out, row, stride_out, columns, inside, y)


@triton.jit
def _unembed_backward_kernel(
    dy, first, projected, weight, dfirst, dprojected, stride_dy, stride_first, stride_stream, stride_row,
    stride_dfirst, stride_dstream, stride_drow, eps,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, FLOOR: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    x = row_of(first, row, stride_first, columns, inside)
    target = tl.sqrt(tl.sum(x * x, 0) / WIDTH)
    total = x
    for j in tl.static_range(1, N):
        h = row_of(projected + (j - 1) * stride_stream, row, stride_row, columns, inside)
        total += h * (target * tl.rsqrt(tl.maximum(tl.sum(h * h, 0) / WIDTH, FLOOR)))
    g = row_of(dy, row, stride_dy, columns, inside)
    g = rms_backward(g, total / N, row_of(weight, 0, 0, columns, inside), eps, WIDTH) / N
    dtarget = 0.0
    for j in tl.static_range(1, N):
        h = row_of(projected + (j - 1) * stride_stream, row, stride_row, columns, inside)
        power = tl.sum(h * h, 0) / WIDTH
        inverse = tl.rsqrt(tl.maximum(power, FLOOR))
        along = tl.sum(g * h, 0) * inverse
        dtarget += along
        # Below the floor the divisor is constant and the direction term vanishes.
        direction = tl.where(power > FLOOR, along * inverse * inverse / WIDTH, 0.0)
        dh = target * (inverse * g - h * direction)
        put_row(dprojected + (j - 1) * stride_dstream, row, stride_drow, columns, inside, dh)
    put_row(dfirst, row, stride_dfirst, columns, inside, g + x * (dtarget / (WIDTH * target)))


def _shape(projected: Tensor) -> dict[str, int | float]:
    width = projected.shape[-1]
    return {
        "N": 1 + projected.shape[0], "WIDTH": width, "BLOCK": next_power_of_2(width), "FLOOR": MAGNITUDE_FLOOR,
        "num_warps": row_warps(width),
    }  # fmt: skip


def triton_embed_streams(first: Tensor, projected: Tensor, *, out: Tensor | None = None) -> Tensor:
    tokens = first.shape[0]
    out = buffer(out, (1 + projected.shape[0], *first.shape), first)
    _embed_kernel[(tokens,)](
        first, projected, out, first.stride(0), projected.stride(0), projected.stride(1), out.stride(0), out.stride(1),
        **_shape(projected), **PRECISE,
    )  # fmt: skip
    return out


def triton_unembed_streams(
    first: Tensor, projected: Tensor, weight: Tensor, eps: float, *, out: Tensor | None = None
) -> Tensor:
    out = buffer(out, first.shape, first)
    _unembed_kernel[(first.shape[0],)](
        first, projected, weight, out, first.stride(0), projected.stride(0), projected.stride(1), out.stride(0), eps,
        **_shape(projected), **PRECISE,
    )  # fmt: skip
    return out


def triton_unembed_streams_backward(
    dy: Tensor,
    first: Tensor,
    projected: Tensor,
    weight: Tensor,
    eps: float,
    *,
    dfirst: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    dfirst, dprojected = buffer(dfirst, dy.shape, dy), buffer(dprojected, projected.shape, dy)
    _unembed_backward_kernel[(dy.shape[0],)](
        dy, first, projected, weight, dfirst, dprojected, dy.stride(0), first.stride(0), projected.stride(0),
        projected.stride(1), dfirst.stride(0), dprojected.stride(0), dprojected.stride(1), eps, **_shape(projected),
        **PRECISE,
    )  # fmt: skip
    return dfirst, dprojected
