"""Linear layers as a step of generation multiplies by them: as its base class does, with nothing looked up or written first.

Training dequantises a matrix and multiplies thousands of rows by it. For one row of each sequence that would write and read
four times what packed weights are, so on CUDA they are read as they are stored, once a step, by a kernel of their own;
nothing is kept beside them and the adapter's buffer. On the CPU the extended matrices of training are there already.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from agentloop.engine.lora.projection import ProjectionGroup, Workspace
from agentloop.engine.models.weights import LayerWeights
from agentloop_kernels.nf4_matmul import nf4_matmul


class ResidentGroup(ProjectionGroup):
    """Multiplies by the matrix that a resident workspace holds. A prompt that is read writes the adapter into it."""

    def __init__(self, group: ProjectionGroup, workspace: Workspace) -> None:
        self.__dict__.update(vars(group))
        matrix = workspace.matrix(group)
        self._upper, self._lower = matrix[: self.outputs].t(), matrix[self.outputs :, : self.inputs].t()

    def fill_tail(self, matrix: Tensor, x: Tensor) -> None:
        """X (sA)' into the tail of x [tokens, inputs + rank]. `matrix` is not read."""
        if self.rank:
            torch.mm(x[:, : self.inputs], self._lower, out=x[:, self.inputs :])

    def multiply(self, matrix: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [tokens, inputs + rank] -> Y [tokens, outputs]. `matrix` is not read."""
        return torch.mm(x, self._upper, out=out)


class StreamedGroup(ProjectionGroup):
    """Multiplies by the weights as they are stored, and then by the adapter."""

    def __init__(self, group: ProjectionGroup) -> None:
        self.__dict__.update(vars(group))

    def fill_tail(self, matrix: Tensor, x: Tensor) -> None:
        """X A' into the tail of x [tokens, inputs + rank]. `matrix` is not read."""
        if self.lora is not None:
            tail = x[:, self.inputs : self.inputs + self.used_rank]
            torch.mm(x[:, : self.inputs], self.flat_a(self.lora.compute).t(), out=tail)

    def multiply(self, matrix: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [tokens, inputs + rank] -> Y [tokens, outputs]. `matrix` is not read."""
        out = x.new_empty(x.shape[0], self.outputs) if out is None else out
        for name, weight in self.parts:
            part = out[:, self.rows[name]]
            if isinstance(weight, Tensor):
                # A linear that waits in host memory comes over the bus.
                torch.mm(x[:, : self.inputs], weight.to(x.device).t(), out=part)
            else:
                nf4_matmul(x[:, : self.inputs], weight, out=part)
        if self.lora is None:
            return out
        for branch in self.branches:
            tail = x[:, self.inputs + branch.tail.start : self.inputs + branch.tail.stop]
            b = branch.slot.view_b(self.lora.compute)
            out[:, branch.rows].addmm_(tail, b.t(), alpha=self.lora.settings.scale)
        return out


class NoMatrices(Workspace):
    """Stands where layers look for extended matrices that nobody reads."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype, resident=False)
        self._none = self.new_empty(0)

    def matrix(self, group: ProjectionGroup) -> Tensor:
        return self._none


def for_decoding(weights: LayerWeights, workspace: Workspace | None) -> LayerWeights:
    """Return the layer's weights with groups for single rows: of the resident `workspace`, or streamed where there is none."""
    groups: dict[str, Any] = {}
    for field in fields(weights):
        if isinstance(group := getattr(weights, field.name), ProjectionGroup):
            groups[field.name] = StreamedGroup(group) if workspace is None else ResidentGroup(group, workspace)
    return replace(weights, **groups)
