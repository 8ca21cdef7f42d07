"""The head and its loss, in chunks of rows, with the gradient made in the forward pass.

    z = c tanh(h W' / c)      loss = sum over supervised rows of logsumexp(z) - z_label      (c = 30 in Gemma 3n)
    dlogits = (softmax(z) - onehot) (1 - (z / c)^2)      dh = dlogits W

The logits of one chunk are the only large buffer and become their own gradient in place; the head is read twice and has
no gradient. Nothing is divided by the number of tokens: the caller scales (in fp16 that keeps dlogits in range).
Source: Gemma3nForCausalLM.forward and ForCausalLMLoss in transformers; chunking as in Liger's
fused_linear_cross_entropy.py, with chunks large enough that the head is not re-read hundreds of times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2

IGNORED = -100
"""A row with this label has loss 0 and gradient 0."""
CHUNK_ROWS = 1024
"""2.6 MB of bf16 logits a row at 262,400 words: 1,024 rows are 0.54 GB and keep the GEMMs above 95 % of their rate."""
Observe = Callable[[Tensor, slice], None]


def softcap_cross_entropy(
    logits: Tensor, labels: Tensor, softcap: float | None, *, losses: Tensor | None = None, gradient: bool = True
) -> Tensor:
    """logits [rows, words], labels int [rows] -> losses fp32 [rows].

    With `gradient` the logits become dlogits in place.
    """
    op = triton_softcap_cross_entropy if takes_kernels(logits) else reference_softcap_cross_entropy
    return op(logits, labels, softcap, losses=losses, gradient=gradient)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    dhidden: Tensor | None = None,
    chunk_rows: int = CHUNK_ROWS,
    logits: Tensor | None = None,
    observe: Observe | None = None,
) -> tuple[Tensor, Tensor]:
    """hidden [rows, width], weight [words, width], labels [rows] -> (losses fp32 [rows], dhidden [rows, width]).

    Neither is divided by anything. `dhidden` may be `hidden`. `logits` [>= chunk_rows, words] is the scratch buffer.
    `observe` is shown every chunk's logits, before the soft-cap, and their rows.
    Gather the supervised rows first: an ignored row costs as much as any other.
    """
    rows = hidden.shape[0]
    losses = torch.empty(rows, dtype=wide(hidden[:0]).dtype, device=hidden.device)
    dhidden = torch.empty_like(hidden) if dhidden is None else dhidden
    if logits is None:
        logits = hidden.new_empty(min(rows, chunk_rows), weight.shape[0])
    for start in range(0, rows, chunk_rows):
        part = slice(start, min(start + chunk_rows, rows))
        scores = torch.mm(hidden[part], weight.T, out=logits[: part.stop - start])
        if observe is not None:
            observe(scores, part)
        softcap_cross_entropy(scores, labels[part], softcap, losses=losses[part])
        torch.mm(scores, weight, out=dhidden[part])
    return losses, dhidden


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    chunk_rows: int = CHUNK_ROWS,
    logits: Tensor | None = None,
    observe: Observe | None = None,
) -> Tensor:
    """log p(label) fp32 [rows], without a gradient; 0 for ignored rows. `observe` as above."""
    rows = hidden.shape[0]
    losses = torch.empty(rows, dtype=wide(hidden[:0]).dtype, device=hidden.device)
    if logits is None:
        logits = hidden.new_empty(min(rows, chunk_rows), weight.shape[0])
    for start in range(0, rows, chunk_rows):
        part = slice(start, min(start + chunk_rows, rows))
        scores = torch.mm(hidden[part], weight.T, out=logits[: part.stop - start])
        if observe is not None:
            observe(scores, part)
        softcap_cross_entropy(scores, labels[part], softcap, losses=losses[part], gradient=False)
    return losses.neg_()


def reference_softcap_cross_entropy(
    logits: Tensor, labels: Tensor, softcap: float | None, *, losses: Tensor | None = None, gradient: bool = True
) -> Tensor:
    z = wide(logits) if softcap is None else softcap * torch.tanh(wide(logits) / softcap)
    kept = labels != IGNORED
    target = labels.long().clamp_min(0).unsqueeze(-1)
    log_p = torch.log_softmax(z, dim=-1)
    loss = torch.where(kept, -log_p.gather(-1, target).squeeze(-1), 0.0)
    losses = loss if losses is None else losses.copy_(loss)
    if gradient:
        dz = log_p.exp().scatter_add(-1, target, torch.full_like(target, -1, dtype=z.dtype))
        if softcap is not None:
            dz = dz * (1.0 - (z / softcap).square())
        logits.copy_(dz * kept.unsqueeze(-1))
    return losses


@triton.jit
def _softcap_cross_entropy_kernel(
    logits, labels, losses, stride, cap, WORDS: tl.constexpr, BLOCK: tl.constexpr, CAPPED: tl.constexpr,
    GRADIENT: tl.constexpr, IGNORE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * stride
    label = tl.load(labels + row)
    # Each lane keeps a maximum and a sum of its own; one reduction at the end instead of one a block. A soft-capped
    # score is at most `cap`, which then serves as the maximum: exp(-2 * 30) is far from fp32's smallest number.
    highest = tl.full([BLOCK], cap if CAPPED else -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WORDS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < WORDS
        if CAPPED:
            x = tl.load(at + columns, inside, 0.0).to(tl.float32)
            total += tl.where(inside, tl.exp(cap * tanh(x / cap) - highest), 0.0)
        else:
            # A lane that never saw a word counts some at -1e30; they vanish when the lanes are joined.
            x = tl.where(inside, tl.load(at + columns, inside, 0.0).to(tl.float32), -1e30)
            higher = tl.maximum(highest, x)
            total = total * tl.exp(highest - higher) + tl.exp(x - higher)
            highest = higher
    if CAPPED:
        lse = cap + tl.log(tl.sum(total, 0))
    else:
        top = tl.max(highest, 0)
        lse = top + tl.log(tl.sum(total * tl.exp(highest - top), 0))
    kept = label != IGNORE
    z_label = tl.load(at + tl.where(kept, label, 0)).to(tl.float32)
    if CAPPED:
        z_label = cap * tanh(z_label / cap)
    tl.store(losses + row, tl.where(kept, lse - z_label, 0.0))
    if GRADIENT:
        weight = tl.where(kept, 1.0, 0.0)
        for start in range(0, WORDS, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < WORDS
            x = tl.load(at + columns, inside, 0.0).to(tl.float32)
            slope = weight
            if CAPPED:
                bounded = tanh(x / cap)
                slope = weight * (1.0 - bounded * bounded)
                x = cap * bounded
            dx = (tl.exp(x - lse) - tl.where(columns == label, 1.0, 0.0)) * slope
            tl.store(at + columns, dx.to(logits.dtype.element_ty), inside)


def triton_softcap_cross_entropy(
    logits: Tensor, labels: Tensor, softcap: float | None, *, losses: Tensor | None = None, gradient: bool = True
) -> Tensor:
    rows, words = logits.shape
    losses = buffer(losses, (rows,), logits, torch.float32)
    _softcap_cross_entropy_kernel[(rows,)](
        logits, labels, losses, logits.stride(0), 1.0 if softcap is None else softcap, WORDS=words,
        BLOCK=min(8192, next_power_of_2(words)), CAPPED=softcap is not None, GRADIENT=gradient, IGNORE=IGNORED,
        num_warps=8, **PRECISE,
    )  # fmt: skip
    return losses
