"""GEGLU, the activation of every generation of Gemma: gelu(gate) * up."""

from __future__ import annotations

from torch import Tensor

from agentloop_kernels.geglu import geglu, geglu_backward


class Geglu:
    """A `models.feedforward.GatedActivation`."""

    statistics = 0

    def forward(self, gate_up: Tensor, out: Tensor, statistics: Tensor | None) -> None:
        geglu(gate_up, out=out)

    def backward(self, dhidden: Tensor, gate_up: Tensor, statistics: Tensor | None) -> None:
        geglu_backward(dhidden, gate_up, dgate_up=gate_up, hidden=dhidden)
