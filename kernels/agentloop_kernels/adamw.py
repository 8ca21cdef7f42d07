"""AdamW over one flat fp32 buffer that holds every LoRA matrix, its gradient and both moments likewise.

    g = clip * grad      m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
    p = p (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

One kernel: 28 bytes a parameter, and it writes the 16-bit copy that the next step computes with. Everything that
changes from step to step (lr, t, clip) is read from the device, so that nothing waits for the host and a CUDA graph may
hold the step. Source: torch.optim.AdamW (decoupled decay, arXiv 1711.05101) and torch.nn.utils.clip_grad_norm_.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.tiles import PRECISE

CLIP_EPS = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


def gradient_norm(grads: Tensor, *, out: Tensor | None = None) -> Tensor:
    """L2 norm of a flat buffer -> fp32 [] on its device. torch's own reduction: 4 bytes a parameter, one pass."""
    norm = torch.linalg.vector_norm(grads)
    return norm if out is None else out.copy_(norm)


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, fp32 [] on the device. By expm1 in fp64: 1 - 0.999 in fp32 is wrong in the fifth digit."""
    return -torch.expm1(step.double() * math.log(beta)).to(torch.float32)


def clip_factor(norm: Tensor, max_norm: float, scale: float | Tensor = 1.0) -> Tensor:
    """Return what to multiply the gradients by: `scale` and, if scale * norm > max_norm, the clip. fp32 [], on the device.

    `scale` is what the loss was not divided by yet (1 / tokens, or the inverse of fp16's loss scale).
    """
    return scale * (max_norm / (norm * scale + CLIP_EPS)).clamp(max=1.0)


def adamw(
    params: Tensor,
    grads: Tensor,
    moment: Tensor,
    variance: Tensor,
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
    """One step in place on flat fp32 [n] buffers. lr, step (1 in the first step) and clip are fp32 [] on the device.

    `compute_copy` [n], bf16 or fp16, receives the new parameters.
    """
    op = triton_adamw if takes_kernels(params) else reference_adamw
    op(
        params, grads, moment, variance, lr=lr, step=step, clip=clip, beta1=beta1, beta2=beta2, eps=eps,
        weight_decay=weight_decay, compute_copy=compute_copy,
    )  # fmt: skip


def reference_adamw(
    params: Tensor,
    grads: Tensor,
    moment: Tensor,
    variance: Tensor,
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
    g = grads * clip
    moment.lerp_(g, 1.0 - beta1)
    variance.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
    corrected = moment / bias_correction(beta1, step)
    params.mul_(1.0 - lr * weight_decay)
    params.sub_(lr * corrected / ((variance / bias_correction(beta2, step)).sqrt() + eps))
    if compute_copy is not None:
        compute_copy.copy_(params)


# No argument may be called `params`: Triton's launcher uses that name for itself.
@triton.jit
def _adamw_kernel(
    weights, grads, moment, variance, compute_copy, lr, correction1, correction2, clip, numel, beta1, beta2, eps,
    weight_decay, BLOCK: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    rate = tl.load(lr)
    g = tl.load(grads + at, inside, 0.0) * tl.load(clip)
    p = tl.load(weights + at, inside, 0.0)
    m = tl.load(moment + at, inside, 0.0)
    v = tl.load(variance + at, inside, 0.0)
    m += (g - m) * (1.0 - beta1)
    v = v * beta2 + g * g * (1.0 - beta2)
    p -= p * (rate * weight_decay)
    p -= rate * (m / tl.load(correction1)) / (tl.sqrt(v / tl.load(correction2)) + eps)
    tl.store(weights + at, p, inside)
    tl.store(moment + at, m, inside)
    tl.store(variance + at, v, inside)
    if COPY:
        tl.store(compute_copy + at, p.to(compute_copy.dtype.element_ty), inside)


def triton_adamw(
    params: Tensor,
    grads: Tensor,
    moment: Tensor,
    variance: Tensor,
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
    numel, block = params.numel(), 1024
    _adamw_kernel[(triton.cdiv(numel, block),)](
        params, grads, moment, variance, params if compute_copy is None else compute_copy, lr,
        bias_correction(beta1, step), bias_correction(beta2, step), clip, numel, beta1, beta2, eps, weight_decay,
        BLOCK=block, COPY=compute_copy is not None, num_warps=4, **PRECISE,
    )  # fmt: skip
