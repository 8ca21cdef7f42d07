"""GEGLU behind Gemma 3n's gaussian top-k: only gate values far above their row's mean pass.

    y = relu(g - mu - t sigma),  h = gelu(y) * u,  t = Phi^-1(sparsity), mu and sigma over the row (biased deviation).

With D = dh * u * gelu'(y) * [y > 0] the exact gradient is dg = D - (sum(D) / n) (1 + t (g - mu) / sigma): dense,
because mean and deviation carry gradient too; du = dh * gelu(y). Source: Gemma3nTextMLP._gaussian_topk in
modeling_gemma3n.py.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentloop_kernels.activation import gelu, gelu_and_slope, reference_gelu, reference_gelu_backward
from agentloop_kernels.launching import takes_kernels
from agentloop_kernels.precision import buffer, store, wide
from agentloop_kernels.tiles import PRECISE, next_power_of_2


def sparsity_threshold(sparsity: float, dtype: torch.dtype) -> float:
    """t of the module's formula, rounded to the activations' dtype as the model does."""
    return torch.tensor(NormalDist().inv_cdf(sparsity), dtype=torch.float32).to(dtype).item()


def sparse_geglu(
    gate_up: Tensor, threshold: float, *, out: Tensor | None = None, statistics: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """gate_up [tokens, 2 * inter] -> (h [tokens, inter], statistics fp32 [tokens, 2] = (mu, sigma) of each row)."""
    op = triton_sparse_geglu if takes_kernels(gate_up) else reference_sparse_geglu
    return op(gate_up, threshold, out=out, statistics=statistics)


def sparse_geglu_backward(
    dhidden: Tensor,
    gate_up: Tensor,
    statistics: Tensor,
    threshold: float,
    *,
    dgate_up: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """Gradient of `sparse_geglu` -> dgate_up [tokens, 2 * inter]; in-place rules as in `geglu_backward`."""
    op = triton_sparse_geglu_backward if takes_kernels(gate_up) else reference_sparse_geglu_backward
    return op(dhidden, gate_up, statistics, threshold, dgate_up=dgate_up, hidden=hidden)


def reference_sparse_geglu(
    gate_up: Tensor, threshold: float, *, out: Tensor | None = None, statistics: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    mean, deviation = gate.mean(-1, keepdim=True), gate.std(-1, keepdim=True, unbiased=False)
    y = torch.relu(gate - mean - threshold * deviation)
    hidden = store(reference_gelu(y) * up, out, gate_up.dtype)
    return hidden, store(torch.cat([mean, deviation], dim=-1), statistics, gate.dtype)


def reference_sparse_geglu_backward(
    dhidden: Tensor,
    gate_up: Tensor,
    statistics: Tensor,
    threshold: float,
    *,
    dgate_up: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    gate, up = wide(gate_up).chunk(2, dim=-1)
    mean, deviation = wide(statistics).split(1, dim=-1)
    dh, inter = wide(dhidden), gate.shape[-1]
    y = torch.relu(gate - mean - threshold * deviation)
    activated = reference_gelu(y)
    passed = reference_gelu_backward(dh * up, y) * (y > 0)
    shared = passed.sum(-1, keepdim=True) / inter
    # No deviation: every gate equals the mean, and its share of the gradient of the deviation is 0, not 0 / 0.
    dgate = passed - shared * (1.0 + threshold * (gate - mean) / deviation.clamp_min(1e-30))
    dup, value = dh * activated, activated * up
    dgate_up = gate_up.new_empty(gate_up.shape) if dgate_up is None else dgate_up
    dgate_up[:, :inter].copy_(dgate)
    dgate_up[:, inter:].copy_(dup)
    if hidden is not None:
        hidden.copy_(value)
    return dgate_up


@triton.jit
def _sparse_geglu_kernel(
    gate_up, out, statistics, threshold, stride_gate_up, stride_out, INTER: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = gate_up + row * stride_gate_up
    # Mean and squared deviation of one block after the other, merged as in Chan, Golub and LeVeque (1979).
    mean = 0.0
    spread = 0.0
    for start in tl.static_range(0, INTER, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < INTER
        g = tl.load(at + columns, inside, 0.0).to(tl.float32)
        size = BLOCK if start + BLOCK <= INTER else INTER - start
        block_mean = tl.sum(g, 0) / size
        centred = tl.where(inside, g - block_mean, 0.0)
        shift = block_mean - mean
        spread += tl.sum(centred * centred, 0) + shift * shift * (start * size / (start + size))
        mean += shift * (size / (start + size))
    deviation = tl.sqrt(spread / INTER)
    tl.store(statistics + 2 * row, mean)
    tl.store(statistics + 2 * row + 1, deviation)
    step = threshold * deviation
    for start in range(0, INTER, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < INTER
        g = tl.load(at + columns, inside, 0.0).to(tl.float32)
        u = tl.load(at + INTER + columns, inside, 0.0).to(tl.float32)
        y = tl.maximum(g - mean - step, 0.0)
        tl.store(out + row * stride_out + columns, (gelu(y) * u).to(out.dtype.element_ty), inside)


@triton.jit
def _sparse_geglu_backward_kernel(
    dhidden, gate_up, dgate_up, hidden, statistics, threshold, stride_dhidden, stride_gate_up, stride_dgate_up,
    stride_hidden, INTER: tl.constexpr, BLOCK: tl.constexpr, WITH_HIDDEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = gate_up + row * stride_gate_up
    mean = tl.load(statistics + 2 * row)
    deviation = tl.load(statistics + 2 * row + 1)
    step = threshold * deviation
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, INTER, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < INTER
        g = tl.load(at + columns, inside, 0.0).to(tl.float32)
        u = tl.load(at + INTER + columns, inside, 0.0).to(tl.float32)
        dh = tl.load(dhidden + row * stride_dhidden + columns, inside, 0.0).to(tl.float32)
        y = tl.maximum(g - mean - step, 0.0)
        activated, slope = gelu_and_slope(y)
        total += tl.where(y > 0.0, dh * u * slope, 0.0)
    shared = tl.sum(total, 0) / INTER
    # No deviation: every gate equals the mean, and its share of the gradient of the deviation is 0, not 0 / 0.
    lean = threshold / tl.maximum(deviation, 1e-30)
    for start in range(0, INTER, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < INTER
        g = tl.load(at + columns, inside, 0.0).to(tl.float32)
        u = tl.load(at + INTER + columns, inside, 0.0).to(tl.float32)
        dh = tl.load(dhidden + row * stride_dhidden + columns, inside, 0.0).to(tl.float32)
        y = tl.maximum(g - mean - step, 0.0)
        activated, slope = gelu_and_slope(y)
        dg = tl.where(y > 0.0, dh * u * slope, 0.0) - shared * (1.0 + lean * (g - mean))
        to = dgate_up + row * stride_dgate_up + columns
        tl.store(to, dg.to(dgate_up.dtype.element_ty), inside)
        tl.store(to + INTER, (dh * activated).to(dgate_up.dtype.element_ty), inside)
        if WITH_HIDDEN:
            tl.store(hidden + row * stride_hidden + columns, (activated * u).to(hidden.dtype.element_ty), inside)


def _row_block(inter: int) -> int:
    # A whole row of 16,384 spills 190 to 400 bytes; four blocks do not, and the second pass finds them in L1.
    return min(4096, next_power_of_2(inter))


def triton_sparse_geglu(
    gate_up: Tensor, threshold: float, *, out: Tensor | None = None, statistics: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    rows, inter = gate_up.shape[0], gate_up.shape[1] // 2
    out = buffer(out, (rows, inter), gate_up)
    statistics = buffer(statistics, (rows, 2), gate_up, torch.float32)
    _sparse_geglu_kernel[(rows,)](
        gate_up, out, statistics, threshold, gate_up.stride(0), out.stride(0), INTER=inter, BLOCK=_row_block(inter),
        num_warps=8, **PRECISE,
    )  # fmt: skip
    return out, statistics


def triton_sparse_geglu_backward(
    dhidden: Tensor,
    gate_up: Tensor,
    statistics: Tensor,
    threshold: float,
    *,
    dgate_up: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    rows, inter = gate_up.shape[0], gate_up.shape[1] // 2
    dgate_up = buffer(dgate_up, gate_up.shape, gate_up)
    with_hidden = hidden is not None
    hidden = hidden if with_hidden else dhidden
    _sparse_geglu_backward_kernel[(rows,)](
        dhidden, gate_up, dgate_up, hidden, statistics, threshold, dhidden.stride(0), gate_up.stride(0),
        dgate_up.stride(0), hidden.stride(0), INTER=inter, BLOCK=_row_block(inter), WITH_HIDDEN=with_hidden,
        num_warps=8, **PRECISE,
    )  # fmt: skip
    return dgate_up
