"""What stands between the q, k, v projections and attention: three norms and the rotary embedding.

    q = rotate(RMS(q; w_q)),  k = rotate(RMS(k; w_k)),  v = RMS(v)             each head by itself
    rotate([a | b]) = [a cos - b sin | b cos + a sin]                          halves of the head, not pairs

`qkv` is one buffer [tokens, (heads + 2 kv_heads) * head_dim] = [q | k | v]; any row stride. `kv_heads=0` for layers that
share keys and values, `heads=0` where only keys and values are wanted. Source: Gemma3nTextAttention and
apply_rotary_pos_emb in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop_kernels.norm import normalise, normalise_backward
from agentloop_kernels.precision import store, wide


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
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], dense.

    `table` is `rope_table`'s, `positions` int32 [tokens] index it (position within the segment). Norm weights [head_dim],
    None for those that have no heads. With 0 heads the result has 0 in that dimension.
    """
    return reference_qkv_rope(
        qkv, table, positions, heads=heads, kv_heads=kv_heads, query_norm=query_norm, key_norm=key_norm, eps=eps,
        query=query, key=key, value=value,
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
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of `qkv_rope` -> dqkv like `qkv`. `out` may be `qkv`. The gradients that come in may be fp32."""
    return reference_qkv_rope_backward(
        dquery, dkey, dvalue, qkv, table, positions, heads=heads, kv_heads=kv_heads, query_norm=query_norm,
        key_norm=key_norm, eps=eps, out=out,
    )  # fmt: skip


def _rotate(x: Tensor, table: Tensor, positions: Tensor, sign: float) -> Tensor:
    """x [tokens, heads, head_dim]; sign -1 turns back, which is the gradient of turning."""
    cos, sin = table.to(x.dtype)[positions.long()].unsqueeze(1).chunk(2, dim=-1)
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
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _split(wide(qkv), heads, kv_heads)
    q = _rotate(normalise(q, query_norm, eps), table, positions, 1.0)
    k = _rotate(normalise(k, key_norm, eps), table, positions, 1.0)
    v = normalise(v, None, eps)
    return store(q, query, qkv.dtype), store(k, key, qkv.dtype), store(v, value, qkv.dtype)


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
    out: Tensor | None = None,
) -> Tensor:
    q, k, v = _split(wide(qkv), heads, kv_heads)
    parts = []
    if heads:
        parts.append(normalise_backward(_rotate(wide(dquery), table, positions, -1.0), q, query_norm, eps))
    if kv_heads:
        parts.append(normalise_backward(_rotate(wide(dkey), table, positions, -1.0), k, key_norm, eps))
        parts.append(normalise_backward(wide(dvalue), v, None, eps))
    return store(torch.cat(parts, dim=1).flatten(1), out, qkv.dtype)
