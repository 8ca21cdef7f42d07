"""What all layers of one step share: where the tokens sit, who attends to whom, and which tokens still matter.

Above the boundary layer's keys and values only supervised tokens influence the loss (every layer there reads K/V of
earlier layers), so from there on the engine carries their rows alone. Exact: neither loss nor gradients change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop.engine.batch.shapes import StepShape, exact
from agentloop.model_directory.architecture import SLIDING, Architecture
from agentloop_kernels.attention import AttentionPlan, plan_attention


@dataclass(frozen=True)
class StepInputs:
    """A batch as the step reads it. May be padded: tokens past the last segment, rows labelled IGNORED."""

    token_ids: Tensor
    """[tokens] int64."""
    positions: Tensor
    """[tokens] int32."""
    labels: Tensor
    """[supervised] int64."""
    supervised: Tensor
    """[supervised] int64: rows of the packed batch that carry a label, ascending."""
    segments: Tensor
    """[segments + 1] int32."""
    longest: int
    skip: bool
    """Carry only supervised rows above the boundary."""
    columns: Tensor | None = None
    """[supervised, columns] fp32: what a rule weighs the labels by; None where there is no rule."""

    @property
    def shape(self) -> StepShape:
        """Return what decides the shapes of everything in the step."""
        return StepShape(self.token_ids.numel(), self.labels.numel(), self.segments.numel(), self.longest, self.skip)

    def to(self, device: torch.device) -> StepInputs:
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()})

    def copy_(self, other: StepInputs) -> None:
        """Take over the values of another batch of the same size, without waiting for the device."""
        for name, tensor in self._tensors().items():
            values = getattr(other, name)
            tensor.copy_(values.pin_memory() if tensor.is_cuda and not values.is_cuda else values, non_blocking=True)

    def _tensors(self) -> dict[str, Tensor]:
        names = ("token_ids", "positions", "labels", "supervised", "segments", "columns")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}


def step_inputs(batch: PackedBatch, *, skip: bool | None = None, shape: StepShape | None = None) -> StepInputs:
    """`skip` forces upper-layer skipping on or off; None decides by the supervised share. `shape` is what the batch is padded
    to, whose `skip` holds then; None: nothing is."""
    supervised = torch.nonzero(batch.labels != IGNORED).flatten()
    shape = shape or exact(batch, skip)
    return StepInputs(
        token_ids=_pad(batch.token_ids, shape.tokens, 0),
        positions=_pad(batch.positions.to(torch.int32), shape.tokens, 0),
        labels=_pad(batch.labels[supervised], shape.rows, IGNORED),
        # A repeated row has no label, so it adds nothing.
        supervised=_pad(supervised, shape.rows, int(supervised[-1]) if len(supervised) < shape.rows else 0),
        segments=_pad(batch.cu_seqlens, shape.segments, batch.tokens),
        longest=shape.longest,
        skip=shape.skip,
        columns=None if batch.columns is None else _pad(batch.columns[supervised], shape.rows, 0),
    )


def _pad(values: Tensor, size: int, filling: int) -> Tensor:
    """`values` [n, …] filled up to `size` rows."""
    missing = size - len(values)
    others = (0, 0) * (values.dim() - 1)
    return torch.nn.functional.pad(values, (*others, 0, missing), value=filling) if missing else values


@dataclass(frozen=True)
class StepContext:
    inputs: StepInputs
    rows: Tensor | None
    """Rows that go on above the boundary; None where every token does."""
    plans: dict[str, AttentionPlan]
    """Layer type -> plan with a query for every token."""
    upper_plans: dict[str, AttentionPlan]
    """Layer type -> plan whose queries are `rows`; `plans` itself where there are none."""
    upper_positions: Tensor
    """[rows] int32."""

    @property
    def tokens(self) -> int:
        return self.inputs.token_ids.numel()


def make_context(shape: Architecture, inputs: StepInputs) -> StepContext:
    """Attention intervals for both kinds of layer, on the inputs' device."""
    rows = inputs.supervised if inputs.skip else None

    def plans(query_rows: Tensor | None) -> dict[str, AttentionPlan]:
        windows = {kind: shape.window if kind == SLIDING else None for kind in shape.rope_theta}
        return {
            kind: plan_attention(
                inputs.segments, inputs.token_ids.numel(), inputs.longest, window=window, query_rows=query_rows
            )
            for kind, window in windows.items()
        }

    whole = plans(None)
    return StepContext(
        inputs,
        rows,
        whole,
        whole if rows is None else plans(rows.to(torch.int32)),
        inputs.positions if rows is None else inputs.positions[rows],
    )
