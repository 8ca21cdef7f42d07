"""GEGLU of a sparse layer: of each token's gates only the largest pass (gaussian top-k)."""

from __future__ import annotations

import torch
from torch import Tensor

from agentloop_kernels.sparse_geglu import sparse_geglu, sparse_geglu_backward, sparsity_threshold


class SparseGeglu:
    """A `models.feedforward.GatedActivation`."""

    statistics = 2
    """Mean and standard deviation of a token's gates."""

    def __init__(self, sparsity: float, dtype: torch.dtype) -> None:
        self.threshold = sparsity_threshold(sparsity, dtype)

    def forward(self, gate_up: Tensor, out: Tensor, statistics: Tensor | None) -> None:
        sparse_geglu(gate_up, self.threshold, out=out, statistics=statistics)

    def backward(self, dhidden: Tensor, gate_up: Tensor, statistics: Tensor | None) -> None:
        sparse_geglu_backward(dhidden, gate_up, statistics, self.threshold, dgate_up=gate_up, hidden=dhidden)
