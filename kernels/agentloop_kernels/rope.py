"""What stands between the q, k, v projections and attention: three norms and the rotary embedding.

    q = rotate(RMS(q; w_q)),  k = rotate(RMS(k; w_k)),  v = RMS(v)             each head by itself
    rotate([a | b]) = [a cos - b sin | b cos + a sin]                          halves of the head, not pairs

That is Gemma 3n. Gemma 3 norms q and k alone (`norm_values=False`): v passes as it is, and so does its gradient. Gemma 1 and
2 norm nothing here (no norm weights either): q and k are only turned. Norm weights are given as they multiply, and may be
fp32 where qkv is 16 bit (Gemma 3's 1 + w).

`qkv` is one buffer [tokens, (heads + 2 kv_heads) * head_dim] = [q | k | v]; any row stride. `kv_heads=0` for layers
that share keys and values, `heads=0` where only keys and values are wanted. Source: Gemma3nTextAttention and
apply_rotary_pos_emb in transformers' modeling_gemma3n.py, Gemma3Attention in modeling_gemma3.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.norm import normalise, normalise_backward
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2


def rope_table(inverse_frequencies: Tensor, length: int) -> Tensor:
    """[length, head_dim] = [cos | sin] of position * inverse frequency [head_dim / 2], in fp32 (fp64 if given)."""
    positions = torch.arange(length, device=inverse_frequencies.device, dtype=wide(inverse_frequencies).dtype)
    angles = positions[:, None] * wide(inverse_frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def qkv_rope(
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], dense.

    `table` is `rope_table`'s, `positions` int32 [tokens] index it (position within the segment). Norm weights
    [head_dim], None for those that have no heads, or for both where heads are turned without a norm. With 0 heads the
    result has 0 in that dimension.
    """
    op = triton_qkv_rope if takes_kernels(qkv) else reference_qkv_rope
    return op(
        qkv, table, positions, heads=heads, kv_heads=kv_heads, query_norm=query_norm, key_norm=key_norm, eps=eps,
        norm_values=norm_values, query=query, key=key, value=value,
    )  # fmt: skip


def qkv_rope_backward(
    dquery: Tensor | None,
    dkey: Tensor | None,
    dvalue: Tensor | None,
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `qkv_rope` -> dqkv like `qkv`. `out` may be `qkv`. The gradients that come in may be fp32."""
    op = triton_qkv_rope_backward if takes_kernels(qkv) else reference_qkv_rope_backward
    return op(
        dquery, dkey, dvalue, qkv, table, positions, heads=heads, kv_heads=kv_heads, query_norm=query_norm,
        key_norm=key_norm, eps=eps, norm_values=norm_values, out=out,
    )  # fmt: skip


def _rotation(table: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [tokens, 1, head_dim / 2] of the tokens' positions: the reference's building block."""
    cos, sin = table.to(dtype)[positions.long()].unsqueeze(1).chunk(2, dim=-1)
    return cos, sin


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor], sign: float) -> Tensor:
    """x [tokens, heads, head_dim]; sign -1 turns back, which is the gradient of turning."""
    cos, sin = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - sign * b * sin, b * cos + sign * a * sin], dim=-1)


def _split(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = qkv.unflatten(-1, (heads + 2 * kv_heads, -1))
    return rows[:, :heads], rows[:, heads : heads + kv_heads], rows[:, heads + kv_heads :]


def reference_qkv_rope(
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    both, v = wide(qkv).unflatten(-1, (heads + 2 * kv_heads, -1)).split((heads + kv_heads, kv_heads), dim=1)
    if query_norm is not None or key_norm is not None:
        norms = [w.expand(count, -1) for w, count in ((query_norm, heads), (key_norm, kv_heads)) if w is not None]
        both = normalise(both, norms[0] if len(norms) == 1 else torch.cat(norms), eps)
    q, k = _rotate(both, _rotation(table, positions, both.dtype), 1.0).split((heads, kv_heads), dim=1)
    # Never a view of qkv, which its owner may overwrite.
    v = normalise(v, None, eps) if norm_values else v.clone()
    return store(q.contiguous(), query, qkv.dtype), store(k.contiguous(), key, qkv.dtype), store(v, value, qkv.dtype)


def reference_qkv_rope_backward(
    dquery: Tensor | None,
    dkey: Tensor | None,
    dvalue: Tensor | None,
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    q, k, v = _split(wide(qkv), heads, kv_heads)
    parts, turn = [], _rotation(table, positions, q.dtype)
    if heads:
        turned = _rotate(wide(dquery), turn, -1.0)
        parts.append(turned if query_norm is None else normalise_backward(turned, q, query_norm, eps))
    if kv_heads:
        turned = _rotate(wide(dkey), turn, -1.0)
        parts.append(turned if key_norm is None else normalise_backward(turned, k, key_norm, eps))
        parts.append(normalise_backward(wide(dvalue), v, None, eps) if norm_values else wide(dvalue))
    return store(torch.cat(parts, dim=1).flatten(1), out, qkv.dtype)


@triton.jit
def _head(
    x, out, weight, at_x, at_out, columns, inside, cos, sin, eps, HALF: tl.constexpr, NORM: tl.constexpr,
    TURN: tl.constexpr,
):  # fmt: skip
    """One head of some tokens, [ROWS, HALF_BLOCK] for either half: normed, turned, both or neither."""
    a = tl.load(x + at_x, inside, 0.0).to(tl.float32)
    b = tl.load(x + at_x + HALF, inside, 0.0).to(tl.float32)
    if NORM:
        r = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        a *= r
        b *= r
        if TURN:
            a *= tl.load(weight + columns, columns < HALF, 0.0).to(tl.float32)
            b *= tl.load(weight + HALF + columns, columns < HALF, 0.0).to(tl.float32)
    if TURN:
        turned = a * cos - b * sin
        b = b * cos + a * sin
        a = turned
    tl.store(out + at_out, a.to(out.dtype.element_ty), inside)
    tl.store(out + at_out + HALF, b.to(out.dtype.element_ty), inside)


@triton.jit
def _head_backward(
    x, dy, dx, weight, at_x, at_dy, at_dx, columns, inside, cos, sin, eps, HALF: tl.constexpr, NORM: tl.constexpr,
    TURN: tl.constexpr,
):  # fmt: skip
    d_a = tl.load(dy + at_dy, inside, 0.0).to(tl.float32)
    d_b = tl.load(dy + at_dy + HALF, inside, 0.0).to(tl.float32)
    if TURN:
        turned = d_a * cos + d_b * sin
        d_b = d_b * cos - d_a * sin
        d_a = turned
    if NORM:
        a = tl.load(x + at_x, inside, 0.0).to(tl.float32)
        b = tl.load(x + at_x + HALF, inside, 0.0).to(tl.float32)
        r = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        if TURN:
            d_a *= tl.load(weight + columns, columns < HALF, 0.0).to(tl.float32)
            d_b *= tl.load(weight + HALF + columns, columns < HALF, 0.0).to(tl.float32)
        shared = (r * r * r) * ((tl.sum(a * d_a, 1) + tl.sum(b * d_b, 1)) / (2 * HALF))[:, None]
        d_a = r * d_a - a * shared
        d_b = r * d_b - b * shared
    tl.store(dx + at_dx, d_a.to(dx.dtype.element_ty), inside)
    tl.store(dx + at_dx + HALF, d_b.to(dx.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["tokens"])
def _qkv_rope_kernel(
    qkv, query, key, value, dqkv, table, positions, query_norm, key_norm, tokens, stride_qkv, stride_dqkv, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, HALF_BLOCK: tl.constexpr,
    NORM_HEADS: tl.constexpr, NORM_VALUES: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Forward: qkv -> query, key, value. Backward: the gradients in query, key, value -> dqkv."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    columns = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (row[:, None] < tokens) & (columns < HALF)
    at = row[:, None] * stride_qkv + head * (2 * HALF) + columns
    at_d = row[:, None] * stride_dqkv + head * (2 * HALF) + columns
    position = tl.load(positions + row, row < tokens, 0)
    turn = table + position[:, None].to(tl.int64) * (2 * HALF) + columns
    cos = tl.load(turn, inside, 0.0).to(tl.float32)
    sin = tl.load(turn + HALF, inside, 0.0).to(tl.float32)
    if head < HEADS:
        to = (row[:, None] * HEADS + head) * (2 * HALF) + columns
        if BACKWARD:
            _head_backward(
                qkv, query, dqkv, query_norm, at, to, at_d, columns, inside, cos, sin, eps, HALF, NORM_HEADS, True
            )  # fmt: skip
        else:
            _head(qkv, query, query_norm, at, to, columns, inside, cos, sin, eps, HALF, NORM_HEADS, True)
    elif head < HEADS + KV_HEADS:
        to = (row[:, None] * KV_HEADS + head - HEADS) * (2 * HALF) + columns
        if BACKWARD:
            _head_backward(
                qkv, key, dqkv, key_norm, at, to, at_d, columns, inside, cos, sin, eps, HALF, NORM_HEADS, True
            )  # fmt: skip
        else:
            _head(qkv, key, key_norm, at, to, columns, inside, cos, sin, eps, HALF, NORM_HEADS, True)
    else:
        to = (row[:, None] * KV_HEADS + head - HEADS - KV_HEADS) * (2 * HALF) + columns
        if BACKWARD:
            _head_backward(
                qkv, value, dqkv, key_norm, at, to, at_d, columns, inside, cos, sin, eps, HALF, NORM_VALUES, False
            )  # fmt: skip
        else:
            _head(qkv, value, key_norm, at, to, columns, inside, cos, sin, eps, HALF, NORM_VALUES, False)


def _launch(
    qkv: Tensor,
    parts: tuple[Tensor, Tensor, Tensor],
    dqkv: Tensor,
    table: Tensor,
    positions: Tensor,
    heads: int,
    kv_heads: int,
    norms: tuple[Tensor | None, Tensor | None],
    eps: float,
    norm_values: bool,
    backward: bool,
) -> None:
    tokens, count = qkv.shape[0], heads + 2 * kv_heads
    half = qkv.shape[1] // count // 2
    block = next_power_of_2(half)
    height = max(1, 1024 // block)
    # q and k are normed both or neither.
    [norm_heads] = {norm is not None for norm, number in zip(norms, (heads, kv_heads)) if number}
    # A norm that no head uses is never read: any pointer will do.
    query_norm, key_norm = (table if w is None else w for w in norms)
    _qkv_rope_kernel[(triton.cdiv(tokens, height), count)](
        qkv, *parts, dqkv, table, positions, query_norm, key_norm, tokens, qkv.stride(0), dqkv.stride(0), eps,
        HEADS=heads, KV_HEADS=kv_heads, HALF=half, ROWS=height, HALF_BLOCK=block, NORM_HEADS=norm_heads,
        NORM_VALUES=norm_values, BACKWARD=backward, num_warps=4, **PRECISE,
    )  # fmt: skip


def triton_qkv_rope(
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, head_dim = qkv.shape[0], qkv.shape[1] // (heads + 2 * kv_heads)
    query = buffer(query, (tokens, heads, head_dim), qkv)
    key, value = buffer(key, (tokens, kv_heads, head_dim), qkv), buffer(value, (tokens, kv_heads, head_dim), qkv)
    norms = (query_norm, key_norm)
    parts = (query, key, value)
    _launch(qkv, parts, qkv, table, positions, heads, kv_heads, norms, eps, norm_values, backward=False)
    return query, key, value


def triton_qkv_rope_backward(
    dquery: Tensor | None,
    dkey: Tensor | None,
    dvalue: Tensor | None,
    qkv: Tensor,
    table: Tensor,
    positions: Tensor,
    *,
    heads: int,
    kv_heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    norm_values: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    out = buffer(out, qkv.shape, qkv)
    parts = tuple(qkv if d is None else d.contiguous() for d in (dquery, dkey, dvalue))
    norms = (query_norm, key_norm)
    _launch(qkv, parts, out, table, positions, heads, kv_heads, norms, eps, norm_values, backward=True)
    return out
