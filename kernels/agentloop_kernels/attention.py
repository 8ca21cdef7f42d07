"""Causal grouped-query attention over packed segments, forward and backward.

Every query sees one interval of keys: from the start of its segment, or the edge of the sliding window, to itself.
`plan_attention` writes the intervals down once per batch, in both directions, and the kernels know nothing else:
neither segments nor windows nor whether the queries are all rows or a few of them (see "upper-layer skipping" in
kernels/README.md). Intervals and rows never decrease, so that a block of keys is met by one run of queries.

    out_t = sum_k p_tk v_k,  p_tk = exp(softcap(scale q_t k_k) - lse_t),  softcap(x) = c tanh(x / c)

Where all rows are queries and there is no soft-cap, CUDA tensors take FlashAttention-2 as it ships inside torch
(aten._flash_attention_forward and _backward, compute capability 8.0 and later); all others take this project's own
kernels in attention_kernels.py. Gemma 3n: scale 1, a window of w means w keys with oneself (masking_utils.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop_kernels.precision import store, wide


@dataclass(frozen=True)
class AttentionPlan:
    """Which query sees which keys. Made by `plan_attention`; shared by all layers of the same window."""

    segments: Tensor
    """int32 [segments + 1]: the first key row of each segment and the end of the last (cu_seqlens)."""
    longest: int
    """No segment is longer. Only sizes a grid: the token budget will do."""
    window: int | None
    all_rows: bool
    """The queries are the keys' rows, one by one."""
    query_rows: Tensor
    """int32 [queries]: the key row that each query is."""
    first_key: Tensor
    """int32 [queries]: the first key row it sees. The last one is query_rows."""
    first_query: Tensor
    """int32 [keys]: the first query that sees a key."""
    last_query: Tensor
    """int32 [keys]: one past the last query that sees a key."""


def plan_attention(
    segments: Tensor, tokens: int, longest: int, *, window: int | None = None, query_rows: Tensor | None = None
) -> AttentionPlan:
    """Intervals for `tokens` packed rows. Nothing leaves the device, so it may be captured in a CUDA graph.

    `segments` may repeat its last entry; rows past it belong to nobody and see only themselves. `query_rows` (int32,
    never decreasing) restricts the queries; fill it up to a fixed capacity by repeating its last entry.
    """
    segments = segments.to(torch.int32)
    rows = torch.arange(tokens, dtype=torch.int32, device=segments.device)
    owner = torch.searchsorted(segments, rows, right=True) - 1
    padded = owner >= segments.shape[0] - 1
    start = torch.where(padded, rows, segments[owner.clamp(max=segments.shape[0] - 2)])
    end = torch.where(padded, rows + 1, segments[(owner + 1).clamp(max=segments.shape[0] - 1)])
    if window is not None:
        start = torch.maximum(start, rows - (window - 1))
        end = torch.minimum(end, rows + window)
    queries = rows if query_rows is None else query_rows.to(torch.int32)
    return AttentionPlan(
        segments=segments,
        longest=longest,
        window=window,
        all_rows=query_rows is None,
        query_rows=queries,
        first_key=start[queries.long()].to(torch.int32),
        first_query=torch.searchsorted(queries, rows, out_int32=True),
        last_query=torch.searchsorted(queries, end.to(torch.int32), out_int32=True),
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q [queries, heads, head_dim], k and v [keys, kv_heads, head_dim] -> (out like q, lse fp32 [heads, queries])."""
    return reference_attention(query, key, value, plan, scale=scale, softcap=softcap, out=out)


def attention_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: AttentionPlan,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    dquery: Tensor | None = None,
    dkey: Tensor | None = None,
    dvalue: Tensor | None = None,
    accumulate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (dq, dk, dv) shaped like q, k, v.

    With `accumulate` dk and dv are added to what `dkey` and `dvalue` hold (layers that share keys and values: give fp32
    buffers). `out` and `lse` must come from `attention` on the same machine.
    """
    return reference_attention_backward(
        dout, query, key, value, out, lse, plan, scale=scale, softcap=softcap, dquery=dquery, dkey=dkey,
        dvalue=dvalue, accumulate=accumulate,
    )  # fmt: skip


def _tiles(plan: AttentionPlan) -> list[tuple[slice, slice]]:
    """(queries, keys) of each segment, and of each padding row, for the reference."""
    bounds = plan.segments.tolist()
    tokens = plan.first_query.shape[0]
    edges = sorted({*bounds, *range(bounds[-1], tokens), tokens})
    cuts = torch.searchsorted(plan.query_rows, torch.tensor(edges, dtype=torch.int32, device=plan.segments.device))
    pairs = zip(edges[:-1], edges[1:], cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
    return [(slice(q0, q1), slice(k0, k1)) for k0, k1, q0, q1 in pairs if q0 < q1]


def _scores(
    query: Tensor, key: Tensor, plan: AttentionPlan, rows: tuple[slice, slice], scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Masked scores [kv_heads, group, queries, keys] and the soft-cap's slope there."""
    queries, keys = rows
    columns = torch.arange(keys.start, keys.stop, device=key.device)
    seen = (columns >= plan.first_key[queries, None]) & (columns <= plan.query_rows[queries, None])
    scores = torch.einsum("qhgd,khd->hgqk", query, key) * scale
    slope = torch.ones_like(scores)
    if softcap is not None:
        bounded = torch.tanh(scores / softcap)
        scores, slope = softcap * bounded, 1.0 - bounded * bounded
    return scores.masked_fill(~seen, float("-inf")), slope


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """[rows, heads, d] -> [rows, kv_heads, group, d]."""
    return x.unflatten(1, (kv_heads, x.shape[1] // kv_heads))


def reference_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    q, k, v = _grouped(wide(query), key.shape[1]), wide(key), wide(value)
    result, lse = torch.zeros_like(q), q.new_zeros(query.shape[1], query.shape[0])
    for queries, keys in _tiles(plan):
        scores, _ = _scores(q[queries], k[keys], plan, (queries, keys), scale, softcap)
        lse[:, queries] = torch.logsumexp(scores, dim=-1).flatten(0, 1)
        result[queries] = torch.einsum("hgqk,khd->qhgd", torch.softmax(scores, dim=-1), v[keys])
    return store(result.flatten(1, 2), out, query.dtype), lse


def reference_attention_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: AttentionPlan,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    dquery: Tensor | None = None,
    dkey: Tensor | None = None,
    dvalue: Tensor | None = None,
    accumulate: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    kv_heads = key.shape[1]
    q, k, v, do = _grouped(wide(query), kv_heads), wide(key), wide(value), _grouped(wide(dout), kv_heads)
    delta = (do * _grouped(wide(out), kv_heads)).sum(-1)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for queries, keys in _tiles(plan):
        scores, slope = _scores(q[queries], k[keys], plan, (queries, keys), scale, softcap)
        p = torch.exp(scores - lse[:, queries, None].to(scores.dtype).unflatten(0, (kv_heads, -1)))
        dp = torch.einsum("qhgd,khd->hgqk", do[queries], v[keys])
        ds = p * (dp - delta[queries].permute(1, 2, 0).unsqueeze(-1)) * slope * scale
        dq[queries] = torch.einsum("hgqk,khd->qhgd", ds, k[keys])
        dk[keys] += torch.einsum("hgqk,qhgd->khd", ds, q[queries])
        dv[keys] += torch.einsum("hgqk,qhgd->khd", p, do[queries])
    dq = store(dq.flatten(1, 2), dquery, query.dtype)
    if accumulate:
        return dq, dkey.add_(dk), dvalue.add_(dv)
    return dq, store(dk, dkey, key.dtype), store(dv, dvalue, value.dtype)
