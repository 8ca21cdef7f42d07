"""LAuReL, attention and the residual, merged behind o_proj and normed for the feed-forward.

    merged = (P + RMS(attention_out) + x + RMS(laurel_out)) / sqrt(2),  x = RMS(P; input_norm)
    normed = RMS(merged; feedforward_norm)

P is AltUp's predicted active stream. Source: Gemma3nTextDecoderLayer.forward in transformers' modeling_gemma3n.py.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.norm import normalise, normalise_backward, put_row, rms, rms_backward, row_of
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2, row_warps


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
    """(P = `active`, o_proj's output, LAuReL's output before its norm) -> (merged, normed), all [tokens, hidden].

    x is computed again from P rather than read. `merged` may be `active`. `attention_eps` differs from `eps` where
    o_proj's output was scaled down to fit fp16: with attention_out * s pass eps * s^2, and the result is exactly the
    same.
    """
    op = triton_merge_attention if takes_kernels(active) else reference_merge_attention
    return op(
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
    op = triton_merge_attention_backward if takes_kernels(merged) else reference_merge_attention_backward
    return op(
        dmerged, dnormed, merged, attention_out, laurel_out, attention_norm=attention_norm, laurel_norm=laurel_norm,
        feedforward_norm=feedforward_norm, eps=eps, attention_eps=attention_eps, dsum=dsum, dattention=dattention,
        dlaurel=dlaurel,
    )  # fmt: skip


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


@triton.jit
def _merge_attention_kernel(
    active, attention_out, laurel_out, input_norm, attention_norm, laurel_norm, feedforward_norm, merged, normed_out,
    stride_active, stride_attention, stride_laurel, stride_merged, stride_normed, eps, attention_eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    p = row_of(active, row, stride_active, columns, inside)
    o = row_of(attention_out, row, stride_attention, columns, inside)
    lr = row_of(laurel_out, row, stride_laurel, columns, inside)
    total = p + rms(o, row_of(attention_norm, 0, 0, columns, inside), attention_eps, WIDTH)
    total += rms(p, row_of(input_norm, 0, 0, columns, inside), eps, WIDTH)
    total += rms(lr, row_of(laurel_norm, 0, 0, columns, inside), eps, WIDTH)
    total *= 0.7071067811865476
    y = rms(total, row_of(feedforward_norm, 0, 0, columns, inside), eps, WIDTH)
    put_row(merged, row, stride_merged, columns, inside, total)
    put_row(normed_out, row, stride_normed, columns, inside, y)


@triton.jit
def _merge_attention_backward_kernel(
    dmerged, dnormed, merged, attention_out, laurel_out, attention_norm, laurel_norm, feedforward_norm,
    dsum, dattention, dlaurel, stride_dmerged, stride_dnormed, stride_merged, stride_attention, stride_laurel,
    stride_dsum, stride_dattention, stride_dlaurel, eps, attention_eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dm = row_of(dmerged, row, stride_dmerged, columns, inside)
    dn = row_of(dnormed, row, stride_dnormed, columns, inside)
    m = row_of(merged, row, stride_merged, columns, inside)
    o = row_of(attention_out, row, stride_attention, columns, inside)
    lr = row_of(laurel_out, row, stride_laurel, columns, inside)
    g = dm + rms_backward(dn, m, row_of(feedforward_norm, 0, 0, columns, inside), eps, WIDTH)
    g *= 0.7071067811865476
    do = rms_backward(g, o, row_of(attention_norm, 0, 0, columns, inside), attention_eps, WIDTH)
    dl = rms_backward(g, lr, row_of(laurel_norm, 0, 0, columns, inside), eps, WIDTH)
    put_row(dsum, row, stride_dsum, columns, inside, g)
    put_row(dattention, row, stride_dattention, columns, inside, do)
    put_row(dlaurel, row, stride_dlaurel, columns, inside, dl)


def triton_merge_attention(
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
    rows, width = active.shape
    merged, normed = buffer(merged, active.shape, active), buffer(normed, active.shape, active)
    _merge_attention_kernel[(rows,)](
        active, attention_out, laurel_out, input_norm, attention_norm, laurel_norm, feedforward_norm, merged, normed,
        active.stride(0), attention_out.stride(0), laurel_out.stride(0), merged.stride(0), normed.stride(0), eps,
        eps if attention_eps is None else attention_eps, WIDTH=width, BLOCK=next_power_of_2(width),
        num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return merged, normed


def triton_merge_attention_backward(
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
    rows, width = merged.shape
    dsum, dattention, dlaurel = (buffer(out, dmerged.shape, dmerged) for out in (dsum, dattention, dlaurel))
    tensors = (dmerged, dnormed, merged, attention_out, laurel_out)
    outputs = (dsum, dattention, dlaurel)
    _merge_attention_backward_kernel[(rows,)](
        *tensors, attention_norm, laurel_norm, feedforward_norm, *outputs, *(t.stride(0) for t in tensors + outputs),
        eps, eps if attention_eps is None else attention_eps, WIDTH=width, BLOCK=next_power_of_2(width),
        num_warps=row_warps(width), **PRECISE,
    )  # fmt: skip
    return dsum, dattention, dlaurel
