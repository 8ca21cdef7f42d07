"""What all layers of one step share: where the tokens sit, who attends to whom, and which tokens still matter.

Above the boundary layer's keys and values only supervised tokens influence the loss (every layer there reads K/V of
earlier layers), so from there on the engine carries their rows alone. Exact: neither loss nor gradients change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.architecture import FULL, SLIDING, Architecture
from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop_kernels.attention import AttentionPlan, plan_attention

SKIP_BELOW = 0.9
"""Skip when at most this share of the tokens is supervised; gathering rows costs a little too."""


@dataclass(frozen=True)
class StepContext:
    token_ids: Tensor
    """[tokens] int64."""
    positions: Tensor
    """[tokens] int32."""
    labels: Tensor
    """[supervised] int64."""
    supervised: Tensor
    """[supervised] int64: rows of the packed batch that carry a label."""
    rows: Tensor | None
    """`supervised` where upper layers are skipped for all others, None where every token goes to the top."""
    plans: dict[str, AttentionPlan]
    """Layer type -> plan with a query for every token."""
    upper_plans: dict[str, AttentionPlan]
    """Layer type -> plan whose queries are `rows`; `plans` itself where there are none."""
    upper_positions: Tensor
    """[rows] int32."""

    @property
    def tokens(self) -> int:
        return self.token_ids.numel()


def make_context(shape: Architecture, batch: PackedBatch, device: torch.device, *, skip: bool | None = None) -> StepContext:
    """Move a batch to `device`. `skip` forces upper-layer skipping on or off; None decides by the supervised share."""
    supervised = torch.nonzero(batch.labels != IGNORED).flatten()
    if skip is None:
        skip = supervised.numel() <= SKIP_BELOW * batch.tokens
    labels = batch.labels[supervised].to(device, non_blocking=True)
    positions = batch.positions.to(torch.int32).to(device, non_blocking=True)
    segments = batch.cu_seqlens.to(device, non_blocking=True)
    supervised = supervised.to(device, non_blocking=True)
    rows = supervised if skip else None

    def plans(query_rows: Tensor | None) -> dict[str, AttentionPlan]:
        windows = {FULL: None, SLIDING: shape.window}
        return {kind: plan_attention(segments, batch.tokens, batch.max_seqlen, window=window, query_rows=query_rows)
                for kind, window in windows.items()}

    whole = plans(None)
    return StepContext(
        token_ids=batch.token_ids.to(device, non_blocking=True), positions=positions, labels=labels, supervised=supervised,
        rows=rows, plans=whole, upper_plans=whole if rows is None else plans(rows.to(torch.int32)),
        upper_positions=positions if rows is None else positions[rows],
    )
