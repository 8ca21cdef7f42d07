"""Attention of one new token a sequence over a cache of keys and values: what every step of generation does.

    out = sum_s p_s v_s over the slots s <= last of a row,  p_s = softmax(softcap(scale q k_s))

Keys carry their rotary position, so the order in which they lie does not matter: a ring that holds the newest w keys is
exactly what a sliding window of w sees. The Triton kernel reads `last` from the device and stops there, so one captured CUDA
graph serves every length; a row's slots are dealt out to several programs, whose parts are joined at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, capability, next_power_of_2

SLOTS = 32
"""Keys that a program reads at once."""
PARTS = 16
"""Programs that share one row and kv head at most: 8 kv heads are then enough for a card of 128 multiprocessors."""


def decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    seen: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """q [rows, heads, head_dim], k and v [rows, kv_heads, slots, head_dim] -> out like q.

    `last` int32 [rows]: the last slot that a row sees, at least 0. `seen` bool [rows, slots] says the same for the reference,
    once for all layers; None where every row sees every slot of k. What lies in unseen slots must be finite. `out` may have
    any row stride.
    """
    if takes_kernels(query):
        return triton_decode_attention(query, key, value, last, scale=scale, softcap=softcap, out=out)
    return reference_decode_attention(query, key, value, scale=scale, softcap=softcap, seen=seen, out=out)


def reference_decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    seen: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    rows, kv_heads, slots, width = key.shape
    q = wide(query).reshape(rows * kv_heads, -1, width)
    k, v = (wide(x).reshape(rows * kv_heads, slots, width) for x in (key, value))
    scores = torch.bmm(q, k.transpose(1, 2))
    if scale != 1.0:
        scores *= scale
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if seen is not None:
        scores.view(rows, -1, slots).masked_fill_(~seen.unsqueeze(1), float("-inf"))
    return store(torch.bmm(scores.softmax(-1), v).view(query.shape), out, query.dtype)


@triton.jit
def _decode_kernel(
    query, key, value, last, partial, stride_q, stride_row, stride_head, scale, softcap, GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    PARTS: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(last + row) + 1
    each = tl.cdiv(tl.cdiv(count, N), PARTS) * N
    begin = part * each
    end = tl.minimum(begin + each, count)
    m, columns = tl.arange(0, M), tl.arange(0, D)
    real, inside = m < GROUP, columns < WIDTH
    at = query + row.to(tl.int64) * stride_q + (head * GROUP + m)[:, None] * WIDTH + columns[None, :]
    q = tl.load(at, real[:, None] & inside[None, :], 0.0)
    start_of = row.to(tl.int64) * stride_row + head.to(tl.int64) * stride_head
    top = tl.full([M], -1e30, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    for start in range(begin, end, N):
        u = start + tl.arange(0, N)
        seen = u < end
        cell = start_of + u[:, None].to(tl.int64) * WIDTH + columns[None, :]
        kept = seen[:, None] & inside[None, :]
        s = tl.dot(q, tl.trans(tl.load(key + cell, kept, 0.0)), input_precision="ieee") * scale
        if CAPPED:
            s = softcap * tanh(s / softcap)
        s = tl.where(seen[None, :], s * 1.4426950408889634, -1e30)
        higher = tl.maximum(top, tl.max(s, 1))
        p = tl.where(seen[None, :], tl.exp2(s - higher[:, None]), 0.0)
        decay = tl.exp2(top - higher)
        total = total * decay + tl.sum(p, 1)
        v = tl.load(value + cell, kept, 0.0)
        acc = acc * decay[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher
    to = partial + (((row * KV_HEADS + head) * GROUP + m) * PARTS + part).to(tl.int64) * (WIDTH + 2)
    tl.store(to[:, None] + columns[None, :], acc, real[:, None] & inside[None, :])
    tl.store(to + WIDTH, top, real)
    tl.store(to + WIDTH + 1, total, real)


@triton.jit
def _join_kernel(
    partial, out, stride_o, HEADS: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    part, columns = tl.arange(0, PARTS), tl.arange(0, D)
    inside = columns < WIDTH
    at = partial + ((row * HEADS + head) * PARTS + part).to(tl.int64) * (WIDTH + 2)
    top = tl.load(at + WIDTH)
    # A part without slots has the lowest maximum and a total of 0; the first part is never without.
    share = tl.exp2(top - tl.max(top, 0))
    total = tl.sum(share * tl.load(at + WIDTH + 1), 0)
    acc = tl.load(at[:, None] + columns[None, :], inside[None, :], 0.0)
    y = tl.sum(acc * share[:, None], 0) / total
    tl.store(out + row.to(tl.int64) * stride_o + head * WIDTH + columns, y.to(out.dtype.element_ty), inside)


def triton_decode_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    last: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    (rows, heads, width), (_, kv_heads, slots, _) = query.shape, key.shape
    out = buffer(out, query.shape, query)
    parts = min(PARTS, next_power_of_2(triton.cdiv(slots, SLOTS)))
    partial = torch.empty(rows * heads * parts * (width + 2), dtype=torch.float32, device=query.device)
    block = max(16, next_power_of_2(width))
    group = heads // kv_heads
    # Without tensor cores (sm_75) threads hold whole rows of both factors: more of them, and no registers spill.
    warps = 8 if (capability(query.device) or (8, 0)) < (8, 0) else 4
    _decode_kernel[(rows, kv_heads, parts)](
        query, key, value, last, partial, query.stride(0), key.stride(0), key.stride(1), scale, softcap or 1.0,
        GROUP=group, KV_HEADS=kv_heads, WIDTH=width, D=block, M=max(16, next_power_of_2(group)), N=SLOTS, PARTS=parts,
        CAPPED=softcap is not None, num_warps=warps, num_stages=1, **PRECISE,
    )  # fmt: skip
    _join_kernel[(rows, heads)](
        partial, out, out.stride(0), HEADS=heads, WIDTH=width, D=block, PARTS=parts, num_warps=4, **PRECISE
    )
    return out
