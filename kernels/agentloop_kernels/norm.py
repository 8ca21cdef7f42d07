"""RMSNorm, and the norms of a decoder layer merged with its first residual sum.

RMS(x; w) = x r w with r = (mean(x^2) + eps)^-1/2; Gemma 1, 2 and 3 use 1 + w instead of w (`unit_offset`). Its gradient
is RMS'(dy) = r w dy - x r^3 mean(x w dy). Norm weights are frozen and get none. Source: Gemma3nRMSNorm and
Gemma3nTextDecoderLayer.forward in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agentloop_kernels.precision import store, wide


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, unit_offset: bool = False, out: Tensor | None = None
) -> Tensor:
    """RMS(x; weight) over the last dimension. x [rows, width], weight [width] or None for 1."""
    return reference_rms_norm(x, weight, eps, unit_offset=unit_offset, out=out)


def rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """dx = RMS'(dy) (+ residual). All [rows, width]; `out` may be `dy` or `residual`."""
    return reference_rms_norm_backward(dy, x, weight, eps, unit_offset=unit_offset, residual=residual, out=out)


def merge_attention(
    active: Tensor,
    attention_out: Tensor,
    laurel_out: Tensor,
    *,
    input_norm: Tensor,
    attention_norm: Tensor,
    laurel_norm: Tensor,
    feedforward_norm: Tensor,
    eps: float,
    attention_eps: float | None = None,
    merged: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What follows o_proj: both branches normed, added to the residual, and the result normed for the feed-forward.

        merged = (P + RMS(attention_out) + x + RMS(laurel_out)) / sqrt(2),  x = RMS(P; input_norm)
        normed = RMS(merged; feedforward_norm)

    `active` is P, AltUp's predicted active stream; x is computed again from it rather than read. All [tokens, hidden].
    `merged` may be `active`. `attention_eps` differs from `eps` where o_proj's output was scaled down to fit fp16:
    with attention_out * s pass eps * s^2, and the result is exactly the same.
    """
    return reference_merge_attention(
        active, attention_out, laurel_out, input_norm=input_norm, attention_norm=attention_norm,
        laurel_norm=laurel_norm, feedforward_norm=feedforward_norm, eps=eps, attention_eps=attention_eps,
        merged=merged, normed=normed,
    )  # fmt: skip


def merge_attention_backward(
    dmerged: Tensor,
    dnormed: Tensor,
    merged: Tensor,
    attention_out: Tensor,
    laurel_out: Tensor,
    *,
    attention_norm: Tensor,
    laurel_norm: Tensor,
    feedforward_norm: Tensor,
    eps: float,
    attention_eps: float | None = None,
    dsum: Tensor | None = None,
    dattention: Tensor | None = None,
    dlaurel: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of `merge_attention` -> (dsum, dattention_out, dlaurel_out), all [tokens, hidden].

    `dmerged` is the gradient that reaches `merged` past the feed-forward, `dnormed` the one through it. `dsum` is the
    gradient of the bracket: it belongs to P and to x alike, and `altup.predict_backward` adds both.
    Outputs may be any of the gradients that come in.
    """
    return reference_merge_attention_backward(
        dmerged, dnormed, merged, attention_out, laurel_out, attention_norm=attention_norm, laurel_norm=laurel_norm,
        feedforward_norm=feedforward_norm, eps=eps, attention_eps=attention_eps, dsum=dsum, dattention=dattention,
        dlaurel=dlaurel,
    )  # fmt: skip


def normalise(x: Tensor, weight: Tensor | None, eps: float, unit_offset: bool = False) -> Tensor:
    """RMS(x; weight) without rounding: the reference's building block. x already wide."""
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return y if weight is None else y * (weight.to(x.dtype) + unit_offset)


def normalise_backward(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float, unit_offset: bool = False) -> Tensor:
    """RMS'(dy) without rounding."""
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    weighted = dy if weight is None else dy * (weight.to(x.dtype) + unit_offset)
    return r * weighted - x * r**3 * (x * weighted).mean(-1, keepdim=True)


def reference_rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, *, unit_offset: bool = False, out: Tensor | None = None
) -> Tensor:
    return store(normalise(wide(x), weight, eps, unit_offset), out, x.dtype)


def reference_rms_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    dx = normalise_backward(wide(dy), wide(x), weight, eps, unit_offset)
    return store(dx if residual is None else dx + wide(residual), out, dy.dtype)


def reference_merge_attention(
    active: Tensor,
    attention_out: Tensor,
    laurel_out: Tensor,
    *,
    input_norm: Tensor,
    attention_norm: Tensor,
    laurel_norm: Tensor,
    feedforward_norm: Tensor,
    eps: float,
    attention_eps: float | None = None,
    merged: Tensor | None = None,
    normed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    p = wide(active)
    attended = normalise(wide(attention_out), attention_norm, eps if attention_eps is None else attention_eps)
    laurel = normalise(p, input_norm, eps) + normalise(wide(laurel_out), laurel_norm, eps)
    total = (p + attended + laurel) / math.sqrt(2)
    # Normed from the unrounded sum: the kernel holds it in registers.
    y = normalise(total, feedforward_norm, eps)
    return store(total, merged, active.dtype), store(y, normed, active.dtype)


def reference_merge_attention_backward(
    dmerged: Tensor,
    dnormed: Tensor,
    merged: Tensor,
    attention_out: Tensor,
    laurel_out: Tensor,
    *,
    attention_norm: Tensor,
    laurel_norm: Tensor,
    feedforward_norm: Tensor,
    eps: float,
    attention_eps: float | None = None,
    dsum: Tensor | None = None,
    dattention: Tensor | None = None,
    dlaurel: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    dtotal = wide(dmerged) + normalise_backward(wide(dnormed), wide(merged), feedforward_norm, eps)
    g = dtotal / math.sqrt(2)
    attention_eps = eps if attention_eps is None else attention_eps
    dattended = normalise_backward(g, wide(attention_out), attention_norm, attention_eps)
    dlaurelled = normalise_backward(g, wide(laurel_out), laurel_norm, eps)
    dtype = dmerged.dtype
    return store(g, dsum, dtype), store(dattended, dattention, dtype), store(dlaurelled, dlaurel, dtype)
