"""What all layers of one step share: where the tokens sit, who attends to whom, and which tokens still matter.

Above the boundary layer's keys and values only supervised tokens influence the loss (every layer there reads K/V of
earlier layers), so from there on the engine carries their rows alone. Exact: neither loss nor gradients change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop.model_directory.architecture import SLIDING, Architecture
from agentloop_kernels.attention import AttentionPlan, plan_attention

SKIP_BELOW = 0.9
"""Skip when at most this share of the tokens is supervised; gathering rows costs a little too."""
TOKEN_STEP, ROW_STEP, SEGMENT_STEP = 256, 256, 16
"""Padded sizes are multiples of these, so that few CUDA graphs serve many batches."""


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

    @property
    def size(self) -> tuple[int, int, int, int, bool]:
        """Return what decides the shapes of everything in the step."""
        return self.token_ids.numel(), self.labels.numel(), self.segments.numel(), self.longest, self.skip

    def to(self, device: torch.device) -> StepInputs:
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()})

    def copy_(self, other: StepInputs) -> None:
        """Take over the values of another batch of the same size."""
        for name, tensor in self._tensors().items():
            tensor.copy_(getattr(other, name), non_blocking=True)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("token_ids", "positions", "labels", "supervised", "segments")}


def step_inputs(batch: PackedBatch, *, skip: bool | None = None, padded: bool = False) -> StepInputs:
    """`skip` forces upper-layer skipping on or off; None decides by the supervised share."""
    supervised = torch.nonzero(batch.labels != IGNORED).flatten()
    if skip is None:
        skip = supervised.numel() <= SKIP_BELOW * batch.tokens
    inputs = StepInputs(
        batch.token_ids,
        batch.positions.to(torch.int32),
        batch.labels[supervised],
        supervised,
        batch.cu_seqlens,
        batch.max_seqlen,
        skip,
    )
    if not padded:
        return inputs
    tokens, rows, segments, longest, _ = inputs.size
    return StepInputs(
        token_ids=_pad(inputs.token_ids, _up(tokens, TOKEN_STEP), 0),
        positions=_pad(inputs.positions, _up(tokens, TOKEN_STEP), 0),
        labels=_pad(inputs.labels, _up(rows, ROW_STEP), IGNORED),
        # A repeated row has no label, so it adds nothing.
        supervised=_pad(supervised, _up(rows, ROW_STEP), int(supervised[-1])),
        segments=_pad(inputs.segments, _up(segments, SEGMENT_STEP), tokens),
        longest=max(_up(longest, TOKEN_STEP), _up(tokens, TOKEN_STEP) - tokens),
        skip=skip,
    )


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _pad(values: Tensor, size: int, filling: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - values.numel()), value=filling)


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
