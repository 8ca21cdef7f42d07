"""AltUp in Triton: one program a token, all its streams in registers. See altup.py for formulas and arguments.

A tile [STREAMS, BLOCK] holds one token's streams in fp32, so that each stream is read once and written once. The number
of streams is padded to a power of two; the padding holds zeros and is never stored. Loads come before the reductions and
stores after them, which is what allows a kernel to write over its inputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.norm import put_row, rms, rms_backward, row_of
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


@triton.jit
def _tile(pointer, row, stride_stream, stride_row, streams, columns, N: tl.constexpr, WIDTH: tl.constexpr):
    """Addresses and mask of one token's streams [STREAMS, BLOCK]."""
    at = pointer + streams[:, None].to(tl.int64) * stride_stream + row * stride_row + columns[None, :]
    return at, (streams[:, None] < N) & (columns[None, :] < WIDTH)


@triton.jit
def _pick(tile, streams, index):
    """Stream `index` of a tile [STREAMS, BLOCK] -> [BLOCK]. Stays within each thread's own registers."""
    return tl.sum(tl.where(streams[:, None] == index, tile, 0.0), 0)


@triton.jit
def _small(pointer, rows, columns, stride, N_ROWS: tl.constexpr, N_COLUMNS: tl.constexpr):
    """A small matrix, padded with zeros."""
    inside = (rows[:, None] < N_ROWS) & (columns[None, :] < N_COLUMNS)
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def _route(x, b_router, eps, WIDTH: tl.constexpr):
    """(m [STREAMS], z [STREAMS] = atanh(m), r) of the module's formula; b_router [STREAMS, BLOCK]."""
    r = tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)
    z = tl.sum(b_router * x[None, :], 1) * r
    return tanh(z), z, r


@triton.jit
def _route_backward(dm, m, z, r, x, b_router, WIDTH: tl.constexpr):
    """Gradient of `_route` into x [BLOCK]: r R'dz - x r^2 <dz, z> / hidden."""
    dz = dm * (1.0 - m * m)
    return r * tl.sum(b_router * dz[:, None], 0) - x * (r * r * tl.sum(dz * z, 0) / WIDTH)


@triton.jit
def _predict_from(
    s, streams, router, prediction, input_norm, coefs, active, normed, row, columns, inside, stride_active,
    stride_normed, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Router, coefficients, P_0 and x from the tile s [STREAMS, BLOCK]."""
    at, valid = _tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    m, z, r = _route(_pick(s, streams, 0), tl.load(at, valid, 0.0).to(tl.float32), eps, WIDTH)
    pairs = tl.arange(0, STREAMS * STREAMS)
    c = tl.sum(_small(prediction, pairs, streams, N, N * N, N) * m[None, :], 1)
    tl.store(coefs + row * (N * N) + pairs, c, pairs < N * N)
    c_0 = tl.sum(_small(prediction, streams, streams, N, N, N) * m[None, :], 1)
    p = _pick(s, streams, 0) + tl.sum(s * c_0[:, None], 0)
    put_row(active, row, stride_active, columns, inside, p)
    x = rms(p, row_of(input_norm, 0, 0, columns, inside), eps, WIDTH)
    put_row(normed, row, stride_normed, columns, inside, x)


@triton.jit
def _predict_kernel(
    states, router, prediction, input_norm, coefs, active, normed, stride_stream, stride_row, stride_active,
    stride_normed, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    at, valid = _tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    _predict_from(
        s, streams, router, prediction, input_norm, coefs, active, normed, row, columns, columns < WIDTH,
        stride_active, stride_normed, eps, N, STREAMS, WIDTH,
    )  # fmt: skip


@triton.jit
def _advance_kernel(
    states, coefs, activated, gains, projected, ple_norm, out, router, prediction, input_norm, coefs_out, active,
    normed, stride_stream, stride_row, stride_activated, stride_projected, stride_out_stream, stride_out_row,
    stride_active, stride_normed, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, PREDICT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = _tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    a = row_of(activated, row, stride_activated, columns, inside)
    o = row_of(projected, row, stride_projected, columns, inside)
    k = tl.load(gains + row * N + streams, streams < N, 0.0)
    p = s
    for i in tl.static_range(N):
        c_i = tl.load(coefs + row * (N * N) + streams * N + i, streams < N, 0.0)
        p += c_i[:, None] * _pick(s, streams, i)[None, :]
    y = p + k[:, None] * (a - _pick(p, streams, 0))[None, :]
    n = rms(o, row_of(ple_norm, 0, 0, columns, inside), eps, WIDTH)
    y += tl.where(streams[:, None] > 0, n[None, :], 0.0)
    y = y.to(out.dtype.element_ty)
    at, valid = _tile(out, row, stride_out_stream, stride_out_row, streams, columns, N, WIDTH)
    tl.store(at, y, valid)
    if PREDICT:
        # From the rounded streams, as when the layer is recomputed from what was kept; padding back to zero.
        y = tl.where(valid, y.to(tl.float32), 0.0)
        _predict_from(
            y, streams, router, prediction, input_norm, coefs_out, active, normed, row, columns, inside,
            stride_active, stride_normed, eps, N, STREAMS, WIDTH,
        )  # fmt: skip


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
    at, valid = _tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    m, z, r = _route(a, tl.load(at, valid, 0.0).to(tl.float32), eps, WIDTH)
    k = tl.sum(_small(correction, streams, streams, N, N, N) * m[None, :], 1) + 1.0
    f = p + tl.sum(tl.where(streams == 0, k, 0.0), 0) * (a - p)
    put_row(activated, row, stride_activated, columns, inside, a)
    put_row(first, row, stride_first, columns, inside, f * row_of(scale, 0, 0, columns, inside))
    tl.store(gains + row * N + streams, k, streams < N)


@triton.jit
def _advance_backward_kernel(
    dstates, projected, ple_norm, dprojected, stride_stream, stride_row, stride_projected, stride_dprojected, eps,
    N: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dn = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(1, N):
        dn += row_of(dstates + j * stride_stream, row, stride_row, columns, inside)
    o = row_of(projected, row, stride_projected, columns, inside)
    do = rms_backward(dn, o, row_of(ple_norm, 0, 0, columns, inside), eps, WIDTH)
    put_row(dprojected, row, stride_dprojected, columns, inside, do)


@triton.jit
def _correct_backward_kernel(
    dstates, dfirst, feedforward_out, active, activated, gains, router, correction, feedforward_norm, scale,
    dactivated, dfeedforward, stride_stream, stride_row, stride_dfirst, stride_feedforward, stride_active,
    stride_activated, stride_dactivated, stride_dfeedforward, eps, feedforward_eps,
    N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = _tile(dstates, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    dc = tl.load(at, valid, 0.0).to(tl.float32)
    df = row_of(dfirst, row, stride_dfirst, columns, inside) * row_of(scale, 0, 0, columns, inside)
    a = row_of(activated, row, stride_activated, columns, inside)
    p = row_of(active, row, stride_active, columns, inside)
    ff = row_of(feedforward_out, row, stride_feedforward, columns, inside)
    k = tl.load(gains + row * N + streams, streams < N, 0.0)
    dc += tl.where(streams[:, None] == 0, df[None, :], 0.0)
    dk = tl.sum(dc * (a - p)[None, :], 1)
    dinnovation = tl.sum(dc * k[:, None], 0)
    at, valid = _tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    b_router = tl.load(at, valid, 0.0).to(tl.float32)
    m, z, r = _route(a, b_router, eps, WIDTH)
    dm = tl.sum(_small(correction, streams, streams, N, N, N) * dk[:, None], 0)
    da = dinnovation + _route_backward(dm, m, z, r, a, b_router, WIDTH)
    dff = rms_backward(da, ff, row_of(feedforward_norm, 0, 0, columns, inside), feedforward_eps, WIDTH)
    put_row(dactivated, row, stride_dactivated, columns, inside, da)
    put_row(dfeedforward, row, stride_dfeedforward, columns, inside, dff)
    put_row(dstates, row, stride_row, columns, inside, _pick(dc, streams, 0) - dinnovation)


@triton.jit
def _predict_backward_kernel(
    dstates, states, coefs, dnormed, dsum, router, prediction, input_norm, projected, ple_norm, dprojected,
    stride_dstream, stride_drow, stride_stream, stride_row, stride_dnormed, stride_dsum, stride_projected,
    stride_dprojected, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ADD: tl.constexpr, JOIN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = _tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    at, valid = _tile(dstates, row, stride_dstream, stride_drow, streams, columns, N, WIDTH)
    dp = tl.load(at, valid, 0.0).to(tl.float32)
    dx = row_of(dnormed, row, stride_dnormed, columns, inside)
    c_0 = tl.load(coefs + row * (N * N) + streams, streams < N, 0.0)
    p = _pick(s, streams, 0) + tl.sum(s * c_0[:, None], 0)
    w = row_of(input_norm, 0, 0, columns, inside)
    if ADD:
        added = row_of(dsum, row, stride_dsum, columns, inside)
        dp_0 = added + rms_backward(dx + added, p, w, eps, WIDTH)
    else:
        dp_0 = rms_backward(dx, p, w, eps, WIDTH)
    dp += tl.where(streams[:, None] == 0, dp_0[None, :], 0.0)

    ds = dp
    dm = tl.zeros([STREAMS], tl.float32)
    for i in tl.static_range(N):
        dc_i = tl.sum(dp * _pick(s, streams, i)[None, :], 1)  # [STREAMS] over j
        w_i = _small(prediction + i * N, streams, streams, N * N, N, N)  # row n j + i of W_p
        dm += tl.sum(w_i * dc_i[:, None], 0)
        c_i = tl.load(coefs + row * (N * N) + streams * N + i, streams < N, 0.0)
        ds += tl.where(streams[:, None] == i, tl.sum(dp * c_i[:, None], 0)[None, :], 0.0)
    r_at, r_valid = _tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    b_router = tl.load(r_at, r_valid, 0.0).to(tl.float32)
    s_0 = _pick(s, streams, 0)
    m, z, r = _route(s_0, b_router, eps, WIDTH)
    ds_0 = _route_backward(dm, m, z, r, s_0, b_router, WIDTH)
    ds += tl.where(streams[:, None] == 0, ds_0[None, :], 0.0)
    tl.store(at, ds.to(dstates.dtype.element_ty), valid)
    if JOIN:
        dn = tl.sum(tl.where(streams[:, None] > 0, ds, 0.0), 0)
        o = row_of(projected, row, stride_projected, columns, inside)
        do = rms_backward(dn, o, row_of(ple_norm, 0, 0, columns, inside), eps, WIDTH)
        put_row(dprojected, row, stride_dprojected, columns, inside, do)


def _shape(streams: Tensor) -> dict[str, int]:
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
        active.stride(0), normed.stride(0), eps, **_shape(streams), **PRECISE,
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
    # What only `predict` needs is never read: any pointer will do.
    _advance_kernel[(streams.shape[1],)](
        streams, coefs, activated, gains, projected, ple_norm, out, gains, gains, ple_norm, coefs, activated,
        activated, streams.stride(0), streams.stride(1), activated.stride(0), projected.stride(0), out.stride(0),
        out.stride(1), activated.stride(0), activated.stride(0), eps, **_shape(streams), PREDICT=False, **PRECISE,
    )  # fmt: skip
    return out


def triton_advance_predict(
    streams: Tensor,
    coefs: Tensor,
    activated: Tensor,
    gains: Tensor,
    projected: Tensor,
    *,
    ple_norm: Tensor,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    streams_out: Tensor | None = None,
    coefs_out: Tensor | None = None,
    active_out: Tensor | None = None,
    normed_out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, tokens, width = streams.shape
    streams_out = buffer(streams_out, streams.shape, streams)
    coefs_out = buffer(coefs_out, (tokens, n * n), streams, torch.float32)
    active_out, normed_out = buffer(active_out, (tokens, width), streams), buffer(normed_out, (tokens, width), streams)
    _advance_kernel[(tokens,)](
        streams, coefs, activated, gains, projected, ple_norm, streams_out, router, prediction, input_norm, coefs_out,
        active_out, normed_out, streams.stride(0), streams.stride(1), activated.stride(0), projected.stride(0),
        streams_out.stride(0), streams_out.stride(1), active_out.stride(0), normed_out.stride(0), eps,
        **_shape(streams), PREDICT=True, **PRECISE,
    )  # fmt: skip
    return streams_out, coefs_out, active_out, normed_out


def triton_advance_backward(
    dstreams: Tensor, projected: Tensor, *, ple_norm: Tensor, eps: float, dprojected: Tensor | None = None
) -> Tensor:
    n, tokens, width = dstreams.shape
    dprojected = buffer(dprojected, (tokens, width), dstreams)
    _advance_backward_kernel[(tokens,)](
        dstreams, projected, ple_norm, dprojected, dstreams.stride(0), dstreams.stride(1), projected.stride(0),
        dprojected.stride(0), eps, N=n, WIDTH=width, BLOCK=next_power_of_2(width), num_warps=row_warps(width),
        **PRECISE,
    )  # fmt: skip
    return dprojected


def triton_correct_backward(
    dstreams: Tensor,
    dfirst: Tensor,
    feedforward_out: Tensor,
    active: Tensor,
    activated: Tensor,
    gains: Tensor,
    *,
    router: Tensor,
    correction: Tensor,
    feedforward_norm: Tensor,
    scale: Tensor,
    eps: float,
    feedforward_eps: float | None = None,
    dactivated: Tensor | None = None,
    dfeedforward: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    _, tokens, width = dstreams.shape
    dactivated = buffer(dactivated, (tokens, width), dstreams)
    dfeedforward = buffer(dfeedforward, (tokens, width), dstreams)
    _correct_backward_kernel[(tokens,)](
        dstreams, dfirst, feedforward_out, active, activated, gains, router, correction, feedforward_norm, scale,
        dactivated, dfeedforward, dstreams.stride(0), dstreams.stride(1), dfirst.stride(0), feedforward_out.stride(0),
        active.stride(0), activated.stride(0), dactivated.stride(0), dfeedforward.stride(0), eps,
        eps if feedforward_eps is None else feedforward_eps, **_shape(dstreams), **PRECISE,
    )  # fmt: skip
    return dactivated, dfeedforward


def triton_predict_backward(
    dstreams: Tensor,
    streams: Tensor,
    coefs: Tensor,
    dnormed: Tensor,
    dsum: Tensor | None,
    *,
    router: Tensor,
    prediction: Tensor,
    input_norm: Tensor,
    eps: float,
    projected: Tensor | None = None,
    ple_norm: Tensor | None = None,
    dprojected: Tensor | None = None,
) -> Tensor | None:
    join = projected is not None
    if join:
        dprojected = buffer(dprojected, projected.shape, dstreams)
    added, o, do = (dnormed if t is None else t for t in (dsum, projected, dprojected))
    _predict_backward_kernel[(streams.shape[1],)](
        dstreams, streams, coefs, dnormed, added, router, prediction, input_norm, o, ple_norm if join else input_norm,
        do, dstreams.stride(0), dstreams.stride(1), streams.stride(0), streams.stride(1), dnormed.stride(0),
        added.stride(0), o.stride(0), do.stride(0), eps, **_shape(streams), ADD=dsum is not None, JOIN=join, **PRECISE,
    )  # fmt: skip
    return dprojected if join else None
