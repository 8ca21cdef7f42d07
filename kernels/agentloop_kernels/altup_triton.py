"""AltUp in Triton, forward: one program a token, all its streams in registers. See altup.py for formulas and arguments.

A tile [STREAMS, BLOCK] holds one token's streams in fp32, so that each stream is read once and written once. The number
of streams is padded to a power of two; the padding holds zeros and is never stored. Loads come before the reductions
and stores after them, which is what allows a kernel to write over its inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.norm import put_row, rms, row_of
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


@triton.jit
def stream_tile(pointer, row, stride_stream, stride_row, streams, columns, N: tl.constexpr, WIDTH: tl.constexpr):
    """Addresses and mask of one token's streams [STREAMS, BLOCK]."""
    at = pointer + streams[:, None].to(tl.int64) * stride_stream + row * stride_row + columns[None, :]
    return at, (streams[:, None] < N) & (columns[None, :] < WIDTH)


@triton.jit
def pick(tile, streams, index):
    """Stream `index` of a tile [STREAMS, BLOCK] -> [BLOCK]. Stays within each thread's own registers."""
    return tl.sum(tl.where(streams[:, None] == index, tile, 0.0), 0)


@triton.jit
def small_matrix(pointer, rows, columns, stride, N_ROWS: tl.constexpr, N_COLUMNS: tl.constexpr):
    """A small matrix, padded with zeros."""
    inside = (rows[:, None] < N_ROWS) & (columns[None, :] < N_COLUMNS)
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def route(x, b_router, eps, WIDTH: tl.constexpr):
    """(m [STREAMS], z [STREAMS] = atanh(m), r) of the module's formula; b_router [STREAMS, BLOCK]."""
    r = tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
    z = tl.sum(b_router * x[None, :], 1) * r
    return tanh(z), z, r


@triton.jit
def _predict_kernel(
    states, router, prediction, input_norm, coefs, active, normed, stride_stream, stride_row, stride_active,
    stride_normed, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = stream_tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    at, valid = stream_tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    m, z, r = route(pick(s, streams, 0), tl.load(at, valid, 0.0).to(tl.float32), eps, WIDTH)
    pairs = tl.arange(0, STREAMS * STREAMS)
    c = tl.sum(small_matrix(prediction, pairs, streams, N, N * N, N) * m[None, :], 1)
    tl.store(coefs + row * (N * N) + pairs, c, pairs < N * N)
    c_0 = tl.sum(small_matrix(prediction, streams, streams, N, N, N) * m[None, :], 1)
    p = pick(s, streams, 0) + tl.sum(s * c_0[:, None], 0)
    put_row(active, row, stride_active, columns, inside, p)
    put_row(normed, row, stride_normed, columns, inside, rms(p, row_of(input_norm, 0, 0, columns, inside), eps, WIDTH))


@triton.jit
def _advance_kernel(
    states, coefs, activated, gains, projected, ple_norm, out, stride_stream, stride_row, stride_activated,
    stride_projected, stride_out_stream, stride_out_row, eps,
    N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = stream_tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    a = row_of(activated, row, stride_activated, columns, inside)
    o = row_of(projected, row, stride_projected, columns, inside)
    k = tl.load(gains + row * N + streams, streams < N, 0.0)
    p = s
    for i in tl.static_range(N):
        c_i = tl.load(coefs + row * (N * N) + streams * N + i, streams < N, 0.0)
        p += c_i[:, None] * pick(s, streams, i)[None, :]
    y = p + k[:, None] * (a - pick(p, streams, 0))[None, :]
    n = rms(o, row_of(ple_norm, 0, 0, columns, inside), eps, WIDTH)
    y += tl.where(streams[:, None] > 0, n[None, :], 0.0)
    at, valid = stream_tile(out, row, stride_out_stream, stride_out_row, streams, columns, N, WIDTH)
    tl.store(at, y.to(out.dtype.element_ty), valid)


@triton.jit
def _correct_kernel(
    merged, feedforward_out, active, router, correction, feedforward_norm, scale, activated, gains, first,
    stride_merged, stride_feedforward, stride_active, stride_activated, stride_first, eps, feedforward_eps,
    N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    ff = row_of(feedforward_out, row, stride_feedforward, columns, inside)
    p = row_of(active, row, stride_active, columns, inside)
    a = row_of(merged, row, stride_merged, columns, inside)
    a += rms(ff, row_of(feedforward_norm, 0, 0, columns, inside), feedforward_eps, WIDTH)
    at, valid = stream_tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    m, z, r = route(a, tl.load(at, valid, 0.0).to(tl.float32), eps, WIDTH)
    k = tl.sum(small_matrix(correction, streams, streams, N, N, N) * m[None, :], 1) + 1.0
    f = p + tl.sum(tl.where(streams == 0, k, 0.0), 0) * (a - p)
    put_row(activated, row, stride_activated, columns, inside, a)
    put_row(first, row, stride_first, columns, inside, f * row_of(scale, 0, 0, columns, inside))
    tl.store(gains + row * N + streams, k, streams < N)


def launch_shape(streams: Tensor) -> dict[str, int]:
    """The constants of a launch for [n, tokens, hidden]."""
    n, _, width = streams.shape
    padded, block = next_power_of_2(n), next_power_of_2(width)
    return {"N": n, "STREAMS": padded, "WIDTH": width, "BLOCK": block, "num_warps": row_warps(block, padded)}


def triton_predict(
    streams: Tensor,
    *,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    coefs: Tensor | None = None,
    active: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, tokens, width = streams.shape
    coefs = buffer(coefs, (tokens, n * n), streams, torch.float32)
    active, normed = buffer(active, (tokens, width), streams), buffer(normed, (tokens, width), streams)
    _predict_kernel[(tokens,)](
        streams, router, prediction, input_norm, coefs, active, normed, streams.stride(0), streams.stride(1),
        active.stride(0), normed.stride(0), eps, **launch_shape(streams), **PRECISE,
    )  # fmt: skip
    return coefs, active, normed


def triton_correct(
    merged: Tensor,
    feedforward_out: Tensor,
    active: Tensor,
    *,
    router: Tensor,
    correction: Tensor,
    feedforward_norm: Tensor,
    scale: Tensor,
    eps: float,
    feedforward_eps: float | None = None,
    activated: Tensor | None = None,
    gains: Tensor | None = None,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, (tokens, width) = router.shape[0], merged.shape
    activated, first = buffer(activated, merged.shape, merged), buffer(first, merged.shape, merged)
    gains = buffer(gains, (tokens, n), merged, torch.float32)
    padded, block = next_power_of_2(n), next_power_of_2(width)
    _correct_kernel[(tokens,)](
        merged, feedforward_out, active, router, correction, feedforward_norm, scale, activated, gains, first,
        merged.stride(0), feedforward_out.stride(0), active.stride(0), activated.stride(0), first.stride(0), eps,
        eps if feedforward_eps is None else feedforward_eps, N=n, STREAMS=padded, WIDTH=width, BLOCK=block,
        num_warps=row_warps(block, 2), **PRECISE,
    )  # fmt: skip
    return activated, gains, first


def triton_advance(
    streams: Tensor,
    coefs: Tensor,
    activated: Tensor,
    gains: Tensor,
    projected: Tensor,
    *,
    ple_norm: Tensor,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    out = buffer(out, streams.shape, streams)
    _advance_kernel[(streams.shape[1],)](
        streams, coefs, activated, gains, projected, ple_norm, out, streams.stride(0), streams.stride(1),
        activated.stride(0), projected.stride(0), out.stride(0), out.stride(1), eps, **launch_shape(streams), **PRECISE,
    )  # fmt: skip
    return out
