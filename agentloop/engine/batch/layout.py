"""A batch as trainers make it, rows of tokens with padding, and the packed batch that the engine computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentloop.engine.batch import IGNORED, PackedBatch
from agentloop.errors import SettingError


@dataclass(frozen=True)
class Layout:
    """Rows of tokens, packed."""

    batch: PackedBatch
    mask: Tensor
    """[rows, tokens] bool on the CPU: where a packed row with a label belongs."""

    @classmethod
    def of(
        cls, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, labels: Tensor | None
    ) -> Layout:
        """Without labels every token counts as labelled.

        Raises SettingError where shapes do not fit, or `attention_mask` has a 0 inside a sequence.
        """
        if input_ids.dim() != 2:
            raise SettingError(f"input_ids: has the shape {list(input_ids.shape)}, not [batch, tokens]")
        for name, given in (("input_ids", input_ids), ("labels", labels)):
            if given is not None and (given.is_floating_point() or given.dtype == torch.bool):
                raise SettingError(f"{name}: {given.dtype} is no dtype of token ids")
        ids = input_ids.cpu()
        for name, given in (("attention_mask", attention_mask), ("labels", labels)):
            if given is not None and given.shape != ids.shape:
                raise SettingError(f"{name}: has the shape {list(given.shape)}, not {list(ids.shape)}")
        real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.cpu() != 0
        targets = torch.full_like(ids, IGNORED)
        if labels is None:
            targets[:] = 0
        else:
            targets[:, :-1] = labels.cpu()[:, 1:]
        places = torch.arange(ids.shape[1]) if position_ids is None else position_ids.cpu()
        if places.shape not in ((ids.shape[1],), (1, ids.shape[1]), ids.shape):
            raise SettingError(f"position_ids: has the shape {list(places.shape)}, not {list(ids.shape)}")
        columns = torch.arange(ids.shape[1]).expand_as(ids)[real]
        places, row = places.expand_as(ids)[real], torch.arange(len(ids))[:, None].expand_as(ids)[real]
        begins = torch.ones(len(places), dtype=torch.bool)
        begins[1:] = (row.diff() != 0) | (places.diff() != 1)
        holes = (row.diff() == 0) & (columns.diff() != 1) & (places[1:] != 0)
        if holes.any():
            at = int(torch.nonzero(holes)[0])
            raise SettingError(
                f"attention_mask: row {int(row[at])} has a 0 behind token {int(columns[at])}, inside a sequence; only padding "
                "before and behind one is supported"
            )
        starts = torch.nonzero(begins).flatten()
        ends = torch.cat([starts, torch.tensor([len(places)])])
        lengths = ends.diff()
        batch = PackedBatch(
            ids[real],
            targets[real],
            torch.arange(len(places)) - starts.repeat_interleave(lengths),
            ends.to(torch.int32),
            int(lengths.max()) if len(lengths) else 0,
        )
        return cls(batch, real & (targets != IGNORED))

    def spread(self, values: Tensor) -> Tensor:
        """[supervised, …] -> [rows, tokens, …], 0 elsewhere; differentiable."""
        where = torch.nonzero(self.mask.flatten()).flatten().to(values.device)
        whole = values.new_zeros(self.mask.numel(), *values.shape[1:])
        return whole.index_copy(0, where, values).unflatten(0, self.mask.shape)
