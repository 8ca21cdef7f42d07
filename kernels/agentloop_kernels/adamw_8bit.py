"""AdamW of adamw.py with both moments in 8 bits: 2 bytes a parameter and their scales instead of 8.

Blocks of 256 parameters share a scale, the largest magnitude among them; the moment has signed levels, the variance
unsigned ones (blockwise.py). A step restores both, updates them in fp32, uses the exact new values for the parameters
and only then rounds them for the next step. Source: arXiv 2110.02861 and bitsandbytes' optimizer_update_8bit_blockwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.adamw import bias_correction, reference_adamw
from agentloop_kernels.blockwise import dynamic_bounds, dynamic_code, quantise_blocks
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.tiles import PRECISE

BLOCK = 256


def new_state(numel: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """(levels uint8 [2, numel], scales fp32 [2, ceil(numel / 256)]) of moment and variance, all zero."""
    scales = torch.zeros(2, -(-numel // BLOCK), dtype=torch.float32, device=device)
    # A scale of 0 makes every level 0.
    return torch.zeros(2, numel, dtype=torch.uint8, device=device), scales


def adamw_8bit(
    weights: Tensor,
    grads: Tensor,
    levels: Tensor,
    scales: Tensor,
    *,
    lr: Tensor,
    step: Tensor,
    clip: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    compute_copy: Tensor | None = None,
) -> None:
    """One step in place. `levels` and `scales` are `new_state`'s; everything else as in `adamw`."""
    op = triton_adamw_8bit if takes_kernels(weights) else reference_adamw_8bit
    op(
        weights, grads, levels, scales, lr=lr, step=step, clip=clip, beta1=beta1, beta2=beta2, eps=eps,
        weight_decay=weight_decay, compute_copy=compute_copy,
    )  # fmt: skip


def restore(levels: Tensor, scales: Tensor, signed: bool) -> Tensor:
    """fp32 [numel] from uint8 [numel] and fp32 [blocks]."""
    spread = scales.repeat_interleave(BLOCK)[: levels.numel()]
    return dynamic_code(levels.device, signed)[levels.int()] * spread


def reference_adamw_8bit(
    weights: Tensor,
    grads: Tensor,
    levels: Tensor,
    scales: Tensor,
    *,
    lr: Tensor,
    step: Tensor,
    clip: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    compute_copy: Tensor | None = None,
) -> None:
    moment, variance = (restore(levels[i], scales[i], signed=i == 0) for i in range(2))
    reference_adamw(
        weights, grads, moment, variance, lr=lr, step=step, clip=clip, beta1=beta1, beta2=beta2, eps=eps,
        weight_decay=weight_decay, compute_copy=compute_copy,
    )  # fmt: skip
    numel = weights.numel()
    for i, state in enumerate((moment, variance)):
        blocks = torch.nn.functional.pad(state, (0, -numel % BLOCK)).view(-1, BLOCK)
        codes, scale = quantise_blocks(blocks, dynamic_code(weights.device, signed=i == 0))
        levels[i].copy_(codes.view(-1)[:numel])
        scales[i].copy_(scale)


@triton.jit
def _nearest(x, bounds):
    """Index of the nearest level: how many of the 255 bounds lie below x. Eight steps of binary search."""
    index = tl.zeros(x.shape, tl.int32)
    for k in tl.static_range(8):
        probe = index + (128 >> k)
        index = tl.where(x > tl.load(bounds + probe - 1), probe, index)
    return index


@triton.jit(do_not_specialize=["numel"])
def _adamw_8bit_kernel(
    weights, grads, moment8, variance8, moment_scale, variance_scale, compute_copy, signed_code, unsigned_code,
    signed_bounds, unsigned_bounds, lr, correction1, correction2, clip, numel, beta1, beta2, eps, weight_decay,
    BLOCKS: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    at = block[:, None].to(tl.int64) * 256 + tl.arange(0, 256)[None, :]
    inside, held = at < numel, block * 256 < numel
    rate = tl.load(lr)
    g = tl.load(grads + at, inside, 0.0) * tl.load(clip)
    p = tl.load(weights + at, inside, 0.0)
    m = tl.load(signed_code + tl.load(moment8 + at, inside, 0).to(tl.int32))
    v = tl.load(unsigned_code + tl.load(variance8 + at, inside, 0).to(tl.int32))
    m *= tl.load(moment_scale + block, held, 0.0)[:, None]
    v *= tl.load(variance_scale + block, held, 0.0)[:, None]
    m += (g - m) * (1.0 - beta1)
    v = v * beta2 + g * g * (1.0 - beta2)
    p -= p * (rate * weight_decay)
    p -= rate * (m / tl.load(correction1)) / (tl.sqrt(v / tl.load(correction2)) + eps)
    tl.store(weights + at, p, inside)
    if COPY:
        tl.store(compute_copy + at, p.to(compute_copy.dtype.element_ty), inside)
    m = tl.where(inside, m, 0.0)
    v = tl.where(inside, v, 0.0)
    m_scale, v_scale = tl.max(tl.abs(m), 1), tl.max(v, 1)
    tl.store(moment_scale + block, m_scale, held)
    tl.store(variance_scale + block, v_scale, held)
    m8 = _nearest(m * (1.0 / tl.maximum(m_scale, 1e-38))[:, None], signed_bounds)
    v8 = _nearest(v * (1.0 / tl.maximum(v_scale, 1e-38))[:, None], unsigned_bounds)
    tl.store(moment8 + at, m8.to(tl.uint8), inside)
    tl.store(variance8 + at, v8.to(tl.uint8), inside)


def triton_adamw_8bit(
    weights: Tensor,
    grads: Tensor,
    levels: Tensor,
    scales: Tensor,
    *,
    lr: Tensor,
    step: Tensor,
    clip: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    compute_copy: Tensor | None = None,
) -> None:
    numel, blocks, device = weights.numel(), 4, weights.device
    tables = [f(device, signed) for f in (dynamic_code, dynamic_bounds) for signed in (True, False)]
    _adamw_8bit_kernel[(triton.cdiv(numel, blocks * BLOCK),)](
        weights, grads, levels[0], levels[1], scales[0], scales[1], weights if compute_copy is None else compute_copy,
        *tables, lr, bias_correction(beta1, step), bias_correction(beta2, step), clip, numel, beta1, beta2, eps,
        weight_decay, BLOCKS=blocks, COPY=compute_copy is not None, num_warps=4, **PRECISE,
    )  # fmt: skip
