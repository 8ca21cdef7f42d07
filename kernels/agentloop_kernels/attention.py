"""Causal grouped-query attention over packed segments, forward and backward.

Every query sees one interval of keys: from the start of its segment, or the edge of the sliding window, to itself.
`plan_attention` writes the intervals down once per batch, in both directions, and the kernels know nothing else:
neither segments nor windows nor whether the queries are all rows or a few of them (see "upper-layer skipping" in
kernels/README.md). Intervals and rows never decrease, so that a block of keys is met by one run of queries.

    out_t = sum_k p_tk v_k,  p_tk = exp(softcap(scale q_t k_k) - lse_t),  softcap(x) = c tanh(x / c)

Where all rows are queries and there is no soft-cap, CUDA tensors take FlashAttention-2 as it ships inside torch
(aten._flash_attention_forward and _backward, compute capability 8.0 and later); all others take this project's own
kernels in attention_triton.py. Gemma 3n: scale 1, a window of w means w keys with oneself (masking_utils.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from agentloop_kernels.attention_triton import triton_attention, triton_attention_backward
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import store, wide
from agentloop_kernels.tiles import capability


@dataclass(frozen=True)
class SegmentGroup:
    """Segments padded to one length: indices of their rows, which of them are real, and who sees whom."""

    query: Tensor
    """int64 [segments, queries]."""
    key: Tensor
    """int64 [segments, keys]."""
    query_real: Tensor
    key_real: Tensor
    seen: Tensor
    """bool [segments, queries, keys]."""


@dataclass(frozen=True)
class AttentionPlan:
    """The keys that each query sees. Made by `plan_attention`; shared by all layers of the same window."""

    segments: Tensor
    """int32 [segments + 1]: the first key row of each segment and the end of the last, which is the last row's."""
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

    @cached_property
    def groups(self) -> list[SegmentGroup]:
        """Segments of similar length (the same power of two) side by side, for the reference. Waits for the device."""
        edges = self.segments.unique().long()
        cuts = torch.searchsorted(self.query_rows, edges.to(torch.int32))
        keys, queries = edges.diff(), cuts.diff()
        size = (keys.clamp_min(1) - 1).float().log2().floor()
        groups = []
        for level in size[queries > 0].unique():
            members = (size == level) & (queries > 0)
            key, key_real = _padded(edges[:-1][members], keys[members])
            query, query_real = _padded(cuts[:-1][members], queries[members])
            row, first = self.query_rows[query].unsqueeze(-1), self.first_key[query].unsqueeze(-1)
            columns = key.unsqueeze(1)
            seen = (columns >= first) & (columns <= row) & key_real.unsqueeze(1)
            groups.append(SegmentGroup(query, key, query_real, key_real, seen))
        return groups


def plan_attention(
    segments: Tensor, tokens: int, longest: int, *, window: int | None = None, query_rows: Tensor | None = None
) -> AttentionPlan:
    """Intervals for `tokens` packed rows. Nothing leaves the device, so it may be captured in a CUDA graph.

    `segments` (cu_seqlens) starts with 0 and may repeat entries; rows past its last make one more segment, so that
    every row is computed. `longest` bounds that one too. `query_rows` (int32, never decreasing) restricts the queries;
    fill it up to a fixed capacity by repeating its last entry.
    """
    rows = torch.arange(tokens, dtype=torch.int32, device=segments.device)
    segments = torch.cat([segments.to(torch.int32), torch.full_like(rows[:1], tokens)])
    owner = torch.searchsorted(segments, rows, right=True) - 1
    start, end = segments[owner], segments[owner + 1]
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
        first_key=start[queries.long()],
        first_query=torch.searchsorted(queries, rows, out_int32=True),
        last_query=torch.searchsorted(queries, end, out_int32=True),
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
    if _flash(query, plan, softcap):
        result, lse = flash_attention(query, key, value, plan, scale=scale)
        return (result if out is None else out.copy_(result)), lse
    op = triton_attention if takes_kernels(query) else reference_attention
    return op(query, key, value, plan, scale=scale, softcap=softcap, out=out)


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
    if _flash(query, plan, softcap):
        grads = flash_attention_backward(dout, query, key, value, out, lse, plan, scale=scale)
        if accumulate:
            dkey.add_(grads[1])
            dvalue.add_(grads[2])
            return store(grads[0], dquery, query.dtype), dkey, dvalue
        return tuple(g if to is None else to.copy_(g) for g, to in zip(grads, (dquery, dkey, dvalue), strict=True))
    op = triton_attention_backward if takes_kernels(query) else reference_attention_backward
    return op(
        dout, query, key, value, out, lse, plan, scale=scale, softcap=softcap, dquery=dquery, dkey=dkey,
        dvalue=dvalue, accumulate=accumulate,
    )  # fmt: skip


def _flash(query: Tensor, plan: AttentionPlan, softcap: float | None) -> bool:
    """Whether torch's FlashAttention-2 can do it."""
    if not takes_kernels(query) or not plan.all_rows or softcap is not None or query.element_size() != 2:
        return False
    return query.shape[2] <= 256 and query.shape[2] % 8 == 0 and capability(query.device) >= (8, 0)


def _window(plan: AttentionPlan) -> dict[str, int]:
    """FlashAttention counts the keys to the left of oneself; -1 is no window."""
    return {"window_size_left": -1 if plan.window is None else plan.window - 1, "window_size_right": 0}


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, *, scale: float
) -> tuple[Tensor, Tensor]:
    """`attention` by aten._flash_attention_forward, 16 bit, all rows, without soft-cap."""
    result = torch.ops.aten._flash_attention_forward(
        query, key, value, plan.segments, plan.segments, plan.longest, plan.longest, 0.0, True, False, scale=scale,
        **_window(plan),
    )  # fmt: skip
    return result[0], result[1]


def flash_attention_backward(
    dout: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    plan: AttentionPlan,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attention_backward` by aten._flash_attention_backward. dq is summed by atomics: its last bit varies."""
    # The states of a random generator that a dropout of 0 does not read.
    seed = torch.empty(2, dtype=torch.uint64, device=query.device)
    unused = torch.empty(0, dtype=torch.uint64, device=query.device)
    return torch.ops.aten._flash_attention_backward(
        dout, query, key, value, out, lse, plan.segments, plan.segments, plan.longest, plan.longest, 0.0, True, seed,
        unused, scale=scale, **_window(plan),
    )  # fmt: skip


def _padded(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Row indices [segments, longest], repeating a segment's last row, and which of them are real."""
    offsets = torch.arange(int(lengths.max()), device=starts.device)
    return starts[:, None] + torch.minimum(offsets, lengths[:, None] - 1), offsets < lengths[:, None]


def _scores(
    query: Tensor, key: Tensor, group: SegmentGroup, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | None]:
    """q [segments, queries, kv_heads, group, d], k [segments, keys, kv_heads, d] -> masked scores
    [segments, kv_heads, group, queries, keys] and the soft-cap's slope there."""
    scores = torch.einsum("sqhgd,skhd->shgqk", query, key)
    if scale != 1.0:
        scores = scores * scale
    slope = None
    if softcap is not None:
        bounded = torch.tanh(scores / softcap)
        scores, slope = softcap * bounded, 1.0 - bounded * bounded
    return scores.masked_fill_(~group.seen[:, None, None], float("-inf")), slope


def _by_kv_head(x: Tensor, kv_heads: int) -> Tensor:
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
    q, k, v = _by_kv_head(wide(query), key.shape[1]), wide(key), wide(value)
    result, lse = torch.zeros_like(q), q.new_zeros(query.shape[0], *q.shape[1:3])
    for group in plan.groups:
        scores, _ = _scores(q[group.query], k[group.key], group, scale, softcap)
        top = scores.amax(-1, keepdim=True)
        p = scores.sub_(top).exp_()
        weight = p.sum(-1, keepdim=True)
        mixed = torch.einsum("shgqk,skhd->sqhgd", p.div_(weight), v[group.key])
        total = top + weight.log()
        rows = group.query[group.query_real]
        result[rows] = mixed[group.query_real]
        lse[rows] = total.squeeze(-1).permute(0, 3, 1, 2)[group.query_real]
    return store(result.flatten(1, 2), out, query.dtype), lse.flatten(1).T.contiguous()


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
    q, k, v = _by_kv_head(wide(query), kv_heads), wide(key), wide(value)
    do, o = _by_kv_head(wide(dout), kv_heads), _by_kv_head(wide(out), kv_heads)
    delta = (do * o).sum(-1)
    total = lse.to(q.dtype).T.unflatten(1, (kv_heads, -1))
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for group in plan.groups:
        rows, keys = group.query[group.query_real], group.key[group.key_real]
        q_g, k_g, do_g = q[group.query], k[group.key], do[group.query]
        scores, slope = _scores(q_g, k_g, group, scale, softcap)
        p = scores.sub_(total[group.query].permute(0, 2, 3, 1).unsqueeze(-1)).exp_()
        p *= group.query_real[:, None, None, :, None]
        ds = torch.einsum("sqhgd,skhd->shgqk", do_g, v[group.key])
        ds.sub_(delta[group.query].permute(0, 2, 3, 1).unsqueeze(-1)).mul_(p)
        if slope is not None:
            ds *= slope
        ds *= scale
        dq[rows] = torch.einsum("shgqk,skhd->sqhgd", ds, k_g)[group.query_real]
        dk[keys] = torch.einsum("shgqk,sqhgd->skhd", ds, q_g)[group.key_real]
        dv[keys] = torch.einsum("shgqk,sqhgd->skhd", p, do_g)[group.key_real]
    dq = store(dq.flatten(1, 2), dquery, query.dtype)
    if accumulate:
        return dq, dkey.add_(dk), dvalue.add_(dv)
    return dq, store(dk, dkey, key.dtype), store(dv, dvalue, value.dtype)
