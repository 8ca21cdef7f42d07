"""The backward of AltUp in Triton: tiles and rules of altup_triton.py, formulas and arguments of altup.py."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.altup_triton import launch_shape, pick, route, small_matrix, stream_tile
from agentloop_kernels.norm import put_row, rms_backward, row_of
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


@triton.jit
def route_backward(dm, m, z, r, x, b_router, WIDTH: tl.constexpr):
    """Gradient of `route` into x [BLOCK]: r R'dz - x r^2 <dz, z> / hidden."""
    dz = dm * (1.0 - m * m)
    return r * tl.sum(b_router * dz[:, None], 0) - x * (r * r * tl.sum(dz * z, 0) / WIDTH)


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
    at, valid = stream_tile(dstates, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    dc = tl.load(at, valid, 0.0).to(tl.float32)
    df = row_of(dfirst, row, stride_dfirst, columns, inside) * row_of(scale, 0, 0, columns, inside)
    a = row_of(activated, row, stride_activated, columns, inside)
    p = row_of(active, row, stride_active, columns, inside)
    ff = row_of(feedforward_out, row, stride_feedforward, columns, inside)
    k = tl.load(gains + row * N + streams, streams < N, 0.0)
    dc += tl.where(streams[:, None] == 0, df[None, :], 0.0)
    dk = tl.sum(dc * (a - p)[None, :], 1)
    dinnovation = tl.sum(dc * k[:, None], 0)
    at, valid = stream_tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    b_router = tl.load(at, valid, 0.0).to(tl.float32)
    m, z, r = route(a, b_router, eps, WIDTH)
    dm = tl.sum(small_matrix(correction, streams, streams, N, N, N) * dk[:, None], 0)
    da = dinnovation + route_backward(dm, m, z, r, a, b_router, WIDTH)
    dff = rms_backward(da, ff, row_of(feedforward_norm, 0, 0, columns, inside), feedforward_eps, WIDTH)
    put_row(dactivated, row, stride_dactivated, columns, inside, da)
    put_row(dfeedforward, row, stride_dfeedforward, columns, inside, dff)
    put_row(dstates, row, stride_row, columns, inside, pick(dc, streams, 0) - dinnovation)


@triton.jit
def _predict_backward_kernel(
    dstates, states, coefs, dnormed, dsum, router, prediction, input_norm, stride_dstream, stride_drow, stride_stream,
    stride_row, stride_dnormed, stride_dsum, eps, N: tl.constexpr, STREAMS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    streams, columns = tl.arange(0, STREAMS), tl.arange(0, BLOCK)
    inside = columns < WIDTH
    at, valid = stream_tile(states, row, stride_stream, stride_row, streams, columns, N, WIDTH)
    s = tl.load(at, valid, 0.0).to(tl.float32)
    at, valid = stream_tile(dstates, row, stride_dstream, stride_drow, streams, columns, N, WIDTH)
    dp = tl.load(at, valid, 0.0).to(tl.float32)
    dx = row_of(dnormed, row, stride_dnormed, columns, inside)
    c_0 = tl.load(coefs + row * (N * N) + streams, streams < N, 0.0)
    p = pick(s, streams, 0) + tl.sum(s * c_0[:, None], 0)
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
        dc_i = tl.sum(dp * pick(s, streams, i)[None, :], 1)  # [STREAMS] over j
        w_i = small_matrix(prediction + i * N, streams, streams, N * N, N, N)  # row n j + i of W_p
        dm += tl.sum(w_i * dc_i[:, None], 0)
        c_i = tl.load(coefs + row * (N * N) + streams * N + i, streams < N, 0.0)
        ds += tl.where(streams[:, None] == i, tl.sum(dp * c_i[:, None], 0)[None, :], 0.0)
    r_at, r_valid = stream_tile(router, 0, WIDTH, 0, streams, columns, N, WIDTH)
    b_router = tl.load(r_at, r_valid, 0.0).to(tl.float32)
    s_0 = pick(s, streams, 0)
    m, z, r = route(s_0, b_router, eps, WIDTH)
    ds_0 = route_backward(dm, m, z, r, s_0, b_router, WIDTH)
    ds += tl.where(streams[:, None] == 0, ds_0[None, :], 0.0)
    tl.store(at, ds.to(dstates.dtype.element_ty), valid)


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
        eps if feedforward_eps is None else feedforward_eps, **launch_shape(dstreams), **PRECISE,
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
) -> None:
    added = dnormed if dsum is None else dsum
    _predict_backward_kernel[(streams.shape[1],)](
        dstreams, streams, coefs, dnormed, added, router, prediction, input_norm, dstreams.stride(0),
        dstreams.stride(1), streams.stride(0), streams.stride(1), dnormed.stride(0), added.stride(0), eps,
        **launch_shape(streams), ADD=dsum is not None, **PRECISE,
    )  # fmt: skip
