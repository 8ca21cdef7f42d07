"""GEGLU behind Gemma 3n's gaussian top-k: only gate values far above their row's mean pass.

    y = relu(g - mu - t sigma),  h = gelu(y) * u,  t = Phi^-1(sparsity), mu and sigma over the row (biased deviation).

With D = dh * u * gelu'(y) * [y > 0] the exact gradient is dg = D - (sum(D) / n) (1 + t (g - mu) / sigma): dense, because
mean and deviation carry gradient too; du = dh * gelu(y). Source: Gemma3nTextMLP._gaussian_topk in modeling_gemma3n.py.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from agentloop_kernels.activation import reference_gelu, reference_gelu_slope
from agentloop_kernels.precision import store, wide


def sparsity_threshold(sparsity: float, dtype: torch.dtype) -> float:
    """t of the module's formula, rounded to the activations' dtype as the model does."""
    return torch.tensor(NormalDist().inv_cdf(sparsity), dtype=torch.float32).to(dtype).item()


def sparse_geglu(
    gate_up: Tensor, threshold: float, *, out: Tensor | None = None, statistics: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """gate_up [tokens, 2 * inter] -> (h [tokens, inter], statistics fp32 [tokens, 2] = (mu, sigma) of each row)."""
    return reference_sparse_geglu(gate_up, threshold, out=out, statistics=statistics)


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
    return reference_sparse_geglu_backward(dhidden, gate_up, statistics, threshold, dgate_up=dgate_up, hidden=hidden)


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
    passed = dh * up * reference_gelu_slope(y) * (y > 0)
    shared = passed.sum(-1, keepdim=True) / inter
    dgate = passed - shared * (1.0 + threshold * (gate - mean) / deviation)
    dup, value = dh * activated, activated * up
    dgate_up = gate_up.new_empty(gate_up.shape) if dgate_up is None else dgate_up
    dgate_up[:, :inter].copy_(dgate)
    dgate_up[:, inter:].copy_(dup)
    if hidden is not None:
        hidden.copy_(value)
    return dgate_up
