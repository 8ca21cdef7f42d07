"""Attention in Triton with an interval of keys for each query: forward, dq, and dk with dv. See attention.py.

Three kernels without atomics, so the gradients are the same in every run. Forward and dq walk over the keys that their
block of queries sees; dk and dv walk over the queries that see their block of keys, for every head of the group. Scores
are in base 2 where there is no soft-cap. The loops' bounds come from the plan: blocks that nobody sees cost nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.precision import buffer
from agentloop_kernels.tiles import PRECISE, attention_tile, capability, next_power_of_2


@triton.jit
def _rows(pointer, row, valid, columns, stride, WIDTH: tl.constexpr):
    """[ROWS, D_BLOCK] of a [rows, heads, head_dim] tensor, zero where not valid."""
    at = pointer + row[:, None].to(tl.int64) * stride + columns[None, :]
    return tl.load(at, valid[:, None] & (columns[None, :] < WIDTH), 0.0)


@triton.jit
def _products(
    a, a_row, a_valid, a_stride, b, b_row, b_valid, b_stride, A: tl.constexpr, B: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """a b' of two [rows, heads, head_dim] tensors -> [A, B], CHUNK columns of a head at a time."""
    total = tl.zeros([A, B], tl.float32)
    for start in range(0, D, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        left = _rows(a, a_row, a_valid, columns, a_stride, WIDTH)
        right = _rows(b, b_row, b_valid, columns, b_stride, WIDTH)
        total += tl.dot(left, tl.trans(right), input_precision="ieee")
    return total


@triton.jit
def _capped(scores, softcap):
    """(softcap tanh(x / softcap), its slope)."""
    bounded = tanh(scores / softcap)
    return softcap * bounded, 1.0 - bounded * bounded


@triton.jit(do_not_specialize=["queries", "keys"])
def _forward_kernel(
    query, key, value, out, lse, query_rows, first_key, queries, keys, stride_q, stride_k, stride_v, stride_o, scale,
    softcap, GROUP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAPPED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    columns = tl.arange(0, D)
    real = t < queries
    last = tl.load(query_rows + t, real, -1)
    first = tl.load(first_key + t, real, 2147483647)
    begin = (tl.min(first, 0) // N) * N
    end = tl.max(last, 0) + 1
    q = _rows(query + head * WIDTH, t, real, columns, stride_q, WIDTH)
    k_at, v_at = key + (head // GROUP) * WIDTH, value + (head // GROUP) * WIDTH
    top = tl.full([M], -1e30, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    for start in tl.range(begin, end, N, num_stages=STAGES):
        u = start + tl.arange(0, N)
        k = _rows(k_at, u, u < keys, columns, stride_k, WIDTH)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [M, N]
        if CAPPED:
            s, slope = _capped(s, softcap)
        s *= 1.4426950408889634
        seen = (u[None, :] >= first[:, None]) & (u[None, :] <= last[:, None])
        s = tl.where(seen, s, -1e30)
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.where(seen, tl.exp2(s - higher[:, None]), 0.0)
        decay = tl.exp2(top - higher)
        total = total * decay + tl.sum(p, 1)
        v = _rows(v_at, u, u < keys, columns, stride_v, WIDTH)
        acc = acc * decay[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher
    safe = tl.where(real, total, 1.0)
    at = out + head * WIDTH + t[:, None].to(tl.int64) * stride_o + columns[None, :]
    y = acc / safe[:, None]
    tl.store(at, y.to(out.dtype.element_ty), real[:, None] & (columns[None, :] < WIDTH))
    tl.store(lse + head * queries + t, (top + tl.log2(safe)) * 0.6931471805599453, real)


@triton.jit(do_not_specialize=["queries"])
def _delta_kernel(
    dout, out, delta, queries, stride_do, stride_o, WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """delta = sum over head_dim of dout * out -> fp32 [heads, queries]."""
    t = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    columns = tl.arange(0, D)
    real = t < queries
    do = _rows(dout + head * WIDTH, t, real, columns, stride_do, WIDTH).to(tl.float32)
    o = _rows(out + head * WIDTH, t, real, columns, stride_o, WIDTH).to(tl.float32)
    tl.store(delta + head * queries + t, tl.sum(do * o, 1), real)


@triton.jit(do_not_specialize=["queries", "keys"])
def _dquery_kernel(
    dout, query, key, value, lse, delta, dquery, query_rows, first_key, queries, keys, stride_do, stride_q, stride_k,
    stride_v, stride_dq, scale, softcap, GROUP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, CHUNK: tl.constexpr, CAPPED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    columns = tl.arange(0, D)
    real = t < queries
    last = tl.load(query_rows + t, real, -1)
    first = tl.load(first_key + t, real, 2147483647)
    begin = (tl.min(first, 0) // N) * N
    end = tl.max(last, 0) + 1
    if CHUNK == D:
        q = _rows(query + head * WIDTH, t, real, columns, stride_q, WIDTH)
        do = _rows(dout + head * WIDTH, t, real, columns, stride_do, WIDTH)
    b_lse = tl.load(lse + head * queries + t, real, 0.0)
    b_delta = tl.load(delta + head * queries + t, real, 0.0)
    k_at, v_at = key + (head // GROUP) * WIDTH, value + (head // GROUP) * WIDTH
    dq = tl.zeros([M, D], tl.float32)
    for start in tl.range(begin, end, N, num_stages=STAGES):
        u = start + tl.arange(0, N)
        if CHUNK == D:
            k = _rows(k_at, u, u < keys, columns, stride_k, WIDTH)
            v = _rows(v_at, u, u < keys, columns, stride_v, WIDTH)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        else:
            q_at = query + head * WIDTH
            s = _products(q_at, t, real, stride_q, k_at, u, u < keys, stride_k, M, N, WIDTH, D, CHUNK) * scale
        slope = 1.0
        if CAPPED:
            s, slope = _capped(s, softcap)
        seen = (u[None, :] >= first[:, None]) & (u[None, :] <= last[:, None])
        p = tl.where(seen, tl.exp2((s - b_lse[:, None]) * 1.4426950408889634), 0.0)
        if CHUNK == D:
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        else:
            do_at = dout + head * WIDTH
            dp = _products(do_at, t, real, stride_do, v_at, u, u < keys, stride_v, M, N, WIDTH, D, CHUNK)
            k = _rows(k_at, u, u < keys, columns, stride_k, WIDTH)
        ds = p * (dp - b_delta[:, None]) * slope * scale
        dq += tl.dot(ds.to(k.dtype), k, input_precision="ieee")
    at = dquery + head * WIDTH + t[:, None].to(tl.int64) * stride_dq + columns[None, :]
    tl.store(at, dq.to(dquery.dtype.element_ty), real[:, None] & (columns[None, :] < WIDTH))


@triton.jit(do_not_specialize=["queries", "keys"])
def _dkey_dvalue_kernel(
    dout, query, key, value, lse, delta, dkey, dvalue, query_rows, first_key, first_query, last_query, queries, keys,
    stride_do, stride_q, stride_k, stride_v, stride_dk, stride_dv, scale, softcap, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, CHUNK: tl.constexpr, CAPPED: tl.constexpr,
    ACCUMULATE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    u = tl.program_id(0) * N + tl.arange(0, N)
    kv_head = tl.program_id(1)
    columns = tl.arange(0, D)
    real = u < keys
    begin = (tl.min(tl.load(first_query + u, real, 2147483647), 0) // M) * M
    end = tl.max(tl.load(last_query + u, real, 0), 0)
    if CHUNK == D:
        k = _rows(key + kv_head * WIDTH, u, real, columns, stride_k, WIDTH)
        v = _rows(value + kv_head * WIDTH, u, real, columns, stride_v, WIDTH)
    dk = tl.zeros([N, D], tl.float32)
    dv = tl.zeros([N, D], tl.float32)
    for head in range(kv_head * GROUP, (kv_head + 1) * GROUP):
        for start in tl.range(begin, end, M, num_stages=STAGES):
            t = start + tl.arange(0, M)
            valid = t < queries
            last = tl.load(query_rows + t, valid, -1)
            first = tl.load(first_key + t, valid, 2147483647)
            b_lse = tl.load(lse + head * queries + t, valid, 0.0)
            b_delta = tl.load(delta + head * queries + t, valid, 0.0)
            if CHUNK == D:
                q = _rows(query + head * WIDTH, t, valid, columns, stride_q, WIDTH)
                do = _rows(dout + head * WIDTH, t, valid, columns, stride_do, WIDTH)
                s = tl.dot(k, tl.trans(q), input_precision="ieee") * scale  # [N, M]
            else:
                k_at, v_at = key + kv_head * WIDTH, value + kv_head * WIDTH
                q_at, do_at = query + head * WIDTH, dout + head * WIDTH
                s = _products(k_at, u, real, stride_k, q_at, t, valid, stride_q, N, M, WIDTH, D, CHUNK) * scale
                do = _rows(do_at, t, valid, columns, stride_do, WIDTH)
            slope = 1.0
            if CAPPED:
                s, slope = _capped(s, softcap)
            seen = (u[:, None] >= first[None, :]) & (u[:, None] <= last[None, :])
            p = tl.where(seen, tl.exp2((s - b_lse[None, :]) * 1.4426950408889634), 0.0)
            dv += tl.dot(p.to(do.dtype), do, input_precision="ieee")
            if CHUNK == D:
                dp = tl.dot(v, tl.trans(do), input_precision="ieee")
            else:
                dp = _products(v_at, u, real, stride_v, do_at, t, valid, stride_do, N, M, WIDTH, D, CHUNK)
                q = _rows(q_at, t, valid, columns, stride_q, WIDTH)
            ds = p * (dp - b_delta[None, :]) * slope * scale
            dk += tl.dot(ds.to(q.dtype), q, input_precision="ieee")
    inside = real[:, None] & (columns[None, :] < WIDTH)
    at_k = dkey + kv_head * WIDTH + u[:, None].to(tl.int64) * stride_dk + columns[None, :]
    at_v = dvalue + kv_head * WIDTH + u[:, None].to(tl.int64) * stride_dv + columns[None, :]
    if ACCUMULATE:
        dk += tl.load(at_k, inside, 0.0).to(tl.float32)
        dv += tl.load(at_v, inside, 0.0).to(tl.float32)
    tl.store(at_k, dk.to(dkey.dtype.element_ty), inside)
    tl.store(at_v, dv.to(dvalue.dtype.element_ty), inside)


def _shape(kernel: str, query: Tensor, kv_heads: int, softcap: float | None) -> dict[str, int | bool]:
    head_dim = query.shape[2]
    tile = attention_tile(kernel, capability(query.device), head_dim, query.element_size())
    block = max(16, next_power_of_2(head_dim))
    shape = {
        "GROUP": query.shape[1] // kv_heads, "WIDTH": head_dim, "D": block, "M": tile.queries, "N": tile.keys,
        "CAPPED": softcap is not None, "STAGES": tile.stages, "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    return shape if kernel == "forward" else shape | {"CHUNK": min(tile.chunk or block, block)}


def triton_attention(
    query: Tensor, key: Tensor, value: Tensor, plan, *, scale: float, softcap: float | None, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    queries, heads, _ = query.shape
    out = buffer(out, query.shape, query)
    lse = torch.empty(heads, queries, dtype=torch.float32, device=query.device)
    shape = _shape("forward", query, key.shape[1], softcap)
    _forward_kernel[(triton.cdiv(queries, shape["M"]), heads)](
        query, key, value, out, lse, plan.query_rows, plan.first_key, queries, key.shape[0], query.stride(0),
        key.stride(0), value.stride(0), out.stride(0), scale, softcap or 1.0, **shape, **PRECISE,
    )  # fmt: skip
    return out, lse


def triton_attention_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    plan,
    *,
    scale: float,
    softcap: float | None,
    dquery: Tensor | None,
    dkey: Tensor | None,
    dvalue: Tensor | None,
    accumulate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (queries, heads, head_dim), (keys, kv_heads, _) = query.shape, key.shape
    dquery, dkey = buffer(dquery, query.shape, query), buffer(dkey, key.shape, key)
    dvalue = buffer(dvalue, value.shape, value)
    delta = torch.empty_like(lse)
    shape = _shape("dquery", query, kv_heads, softcap)
    _delta_kernel[(triton.cdiv(queries, 16), heads)](
        dout, out, delta, queries, dout.stride(0), out.stride(0), WIDTH=head_dim, D=shape["D"], M=16, num_warps=4,
        **PRECISE,
    )  # fmt: skip
    _dquery_kernel[(triton.cdiv(queries, shape["M"]), heads)](
        dout, query, key, value, lse, delta, dquery, plan.query_rows, plan.first_key, queries, keys, dout.stride(0),
        query.stride(0), key.stride(0), value.stride(0), dquery.stride(0), scale, softcap or 1.0, **shape, **PRECISE,
    )  # fmt: skip
    shape = _shape("dkey_dvalue", query, kv_heads, softcap)
    _dkey_dvalue_kernel[(triton.cdiv(keys, shape["N"]), kv_heads)](
        dout, query, key, value, lse, delta, dkey, dvalue, plan.query_rows, plan.first_key, plan.first_query,
        plan.last_query, queries, keys, dout.stride(0), query.stride(0), key.stride(0), value.stride(0),
        dkey.stride(0), dvalue.stride(0), scale, softcap or 1.0, ACCUMULATE=accumulate, **shape, **PRECISE,
    )  # fmt: skip
    return dquery, dkey, dvalue
