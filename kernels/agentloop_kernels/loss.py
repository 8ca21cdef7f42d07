"""The head and its loss, in chunks of rows, with the gradient made in the forward pass.

    z = c tanh(h W' / c)      loss = sum over supervised rows of logsumexp(z) - z_label      (c = 30 in Gemma 3n)
    dlogits = (softmax(z) - onehot) (1 - (z / c)^2)      dh = dlogits W

The logits of one chunk are the only large buffer and become their own gradient in place; the head is read twice and has
no gradient. Nothing is divided by the number of tokens: the caller scales (in fp16 that keeps dlogits in range).
Source: Gemma3nForCausalLM.forward and ForCausalLMLoss in transformers; chunking as in Liger's
fused_linear_cross_entropy.py, with chunks large enough that the head is not re-read hundreds of times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import tanh
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2

IGNORED = -100
"""A row with this label has loss 0 and gradient 0. With any other that is no word both are NaN: nothing is trained on it."""
CHUNK_ROWS = 1024
"""2.6 MB of bf16 logits a row at 262,400 words: 1,024 rows are 0.54 GB and keep the GEMMs above 95 % of their rate."""


@dataclass(frozen=True)
class Observed:
    """Figures of each row's distribution beside its loss, of the same pass over the logits. Both [rows]."""

    entropy: Tensor
    """fp32, in nats."""
    top: Tensor
    """bool: no word is more probable than the label, and none before it as probable; False for ignored rows."""

    def __getitem__(self, rows: slice) -> Observed:
        return Observed(self.entropy[rows], self.top[rows])


def softcap_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    losses: Tensor | None = None,
    gradient: bool = True,
    observed: Observed | None = None,
) -> Tensor:
    """logits [rows, words], labels int [rows] -> losses fp32 [rows].

    With `gradient` the logits become dlogits in place. `observed` is filled where it is given.
    """
    op = triton_softcap_cross_entropy if takes_kernels(logits) else reference_softcap_cross_entropy
    return op(logits, labels, softcap, losses=losses, gradient=gradient, observed=observed)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    dhidden: Tensor | None = None,
    chunk_rows: int = CHUNK_ROWS,
    logits: Tensor | None = None,
    observed: Observed | None = None,
) -> tuple[Tensor, Tensor]:
    """hidden [rows, width], weight [words, width], labels [rows] -> (losses fp32 [rows], dhidden [rows, width]).

    Neither is divided by anything. `dhidden` may be `hidden`. `logits` [>= chunk_rows, words] is the scratch buffer.
    `observed` is filled where it is given.
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
        seen = None if observed is None else observed[part]
        softcap_cross_entropy(scores, labels[part], softcap, losses=losses[part], observed=seen)
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
    observed: Observed | None = None,
) -> Tensor:
    """log p(label) fp32 [rows], without a gradient; 0 for ignored rows. `observed` as above."""
    rows = hidden.shape[0]
    losses = torch.empty(rows, dtype=wide(hidden[:0]).dtype, device=hidden.device)
    if logits is None:
        logits = hidden.new_empty(min(rows, chunk_rows), weight.shape[0])
    for start in range(0, rows, chunk_rows):
        part = slice(start, min(start + chunk_rows, rows))
        scores = torch.mm(hidden[part], weight.T, out=logits[: part.stop - start])
        seen = None if observed is None else observed[part]
        softcap_cross_entropy(scores, labels[part], softcap, losses=losses[part], gradient=False, observed=seen)
    return losses.neg_()


def reference_softcap_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    losses: Tensor | None = None,
    gradient: bool = True,
    observed: Observed | None = None,
) -> Tensor:
    z = wide(logits) if softcap is None else softcap * torch.tanh(wide(logits) / softcap)
    kept = labels != IGNORED
    target = labels.long().clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
    # 0, 1, or NaN where there is no such word
    weight = torch.where(target.squeeze(-1) == labels, 1.0, torch.nan).to(z.dtype).where(kept, 0.0)
    log_p = torch.log_softmax(z, dim=-1)
    loss = torch.where(kept, -log_p.gather(-1, target).squeeze(-1) * weight, 0.0)
    losses = loss if losses is None else losses.copy_(loss)
    if observed is not None:
        observed.entropy.copy_(-(log_p.exp() * log_p).sum(-1))
        observed.top.copy_(logits.argmax(-1) == labels)
    if gradient:
        dz = log_p.exp().scatter_add(-1, target, torch.full_like(target, -1, dtype=z.dtype))
        if softcap is not None:
            dz = dz * (1.0 - (z / softcap).square())
        logits.copy_(dz * weight.unsqueeze(-1))
    return losses


@triton.jit
def _softcap_cross_entropy_kernel(
    logits, labels, losses, entropies, tops, stride, cap, WORDS: tl.constexpr, BLOCK: tl.constexpr,
    CAPPED: tl.constexpr, GRADIENT: tl.constexpr, OBSERVED: tl.constexpr, IGNORE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = logits + row * stride
    label = tl.load(labels + row)
    kept = label != IGNORE
    known = (label >= 0) & (label < WORDS)
    x_label = tl.load(at + tl.where(known, label, 0)).to(tl.float32)
    # Each lane keeps a maximum and a sum of its own; one reduction at the end instead of one a block. A soft-capped
    # score is at most `cap`, which then serves as the maximum: exp(-2 * 30) is far from fp32's smallest number.
    highest = tl.full([BLOCK], cap if CAPPED else -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)  # by what is added to the total, the scores below the maximum
    beaten = tl.zeros([BLOCK], tl.int32)
    for start in range(0, WORDS, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < WORDS
        x = tl.load(at + columns, inside, 0.0).to(tl.float32)
        if OBSERVED:
            better = (x > x_label) | ((x == x_label) & (columns < label))
            beaten = beaten | tl.where(inside & better, 1, 0)
        if CAPPED:
            below = cap * tanh(x / cap) - highest
            share = tl.where(inside, tl.exp(below), 0.0)
            total += share
            if OBSERVED:
                weighted += share * below
        else:
            # A lane that never saw a word counts some at -1e30; they vanish when the lanes are joined.
            x = tl.where(inside, x, -1e30)
            higher = tl.maximum(highest, x)
            fade = tl.exp(highest - higher)
            share = tl.exp(x - higher)
            if OBSERVED:
                # What was summed so far is further below the new maximum, by as much as that rose.
                weighted = tl.where(total > 0.0, fade * (weighted + total * (highest - higher)), 0.0)
                weighted += tl.where(inside, share * (x - higher), 0.0)
            total = total * fade + share
            highest = higher
    if CAPPED:
        joined = tl.sum(total, 0)
        lse = cap + tl.log(joined)
    else:
        top = tl.max(highest, 0)
        fade = tl.exp(highest - top)
        joined = tl.sum(total * fade, 0)
        lse = top + tl.log(joined)
        if OBSERVED:
            weighted = tl.where(fade > 0.0, fade * (weighted + total * (highest - top)), 0.0)
    if OBSERVED:
        # -sum p log p, where log p is what a score is below the maximum, less the logarithm of the total.
        tl.store(entropies + row, tl.log(joined) - tl.sum(weighted, 0) / joined)
        tl.store(tops + row, kept & (tl.max(beaten, 0) == 0))
    z_label = cap * tanh(x_label / cap) if CAPPED else x_label
    weight = tl.where(kept, tl.where(known, 1.0, float("nan")), 0.0)
    tl.store(losses + row, tl.where(kept, (lse - z_label) * weight, 0.0))
    if GRADIENT:
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
    logits: Tensor,
    labels: Tensor,
    softcap: float | None,
    *,
    losses: Tensor | None = None,
    gradient: bool = True,
    observed: Observed | None = None,
) -> Tensor:
    rows, words = logits.shape
    losses = buffer(losses, (rows,), logits, torch.float32)
    # Nothing is written where nothing is observed, but a kernel needs some address.
    entropy, top = (losses, losses) if observed is None else (observed.entropy, observed.top)
    _softcap_cross_entropy_kernel[(rows,)](
        logits, labels, losses, entropy, top, logits.stride(0), 1.0 if softcap is None else softcap, WORDS=words,
        BLOCK=min(8192, next_power_of_2(words)), CAPPED=softcap is not None, GRADIENT=gradient,
        OBSERVED=observed is not None, IGNORE=IGNORED, num_warps=8, **PRECISE,
    )  # fmt: skip
    return losses
