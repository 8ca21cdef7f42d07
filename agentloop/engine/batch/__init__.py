"""Packed batches: sequences laid end to end in one row of tokens, attention kept inside each.

Nothing is padded and no sequence is split, so packing changes no loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from agentloop.engine.batch import packing
from agentloop.engine.numerics.modes import usual_modes
from agentloop.errors import SettingError

IGNORED = -100
"""Label of a position that is not trained on, as in torch and transformers."""


@dataclass(frozen=True)
class PackedBatch:
    """One row of tokens made of whole sequences (segments)."""

    token_ids: Tensor
    """[tokens] int64."""
    labels: Tensor
    """[tokens] int64: the id that position i must predict (already shifted), IGNORED where it is not supervised."""
    positions: Tensor
    """[tokens] int64: place inside the segment, from 0."""
    cu_seqlens: Tensor
    """[segments + 1] int32: first token of each segment, and the number of tokens."""
    max_seqlen: int
    """Tokens of the longest segment."""
    columns: Tensor | None = None
    """[tokens, columns] fp32: values of the label at each position, for a rule that weighs it by them; None where there are
    none."""

    @property
    def tokens(self) -> int:
        """Number of tokens, of all segments together."""
        return self.token_ids.numel()

    @cached_property
    def supervised(self) -> int:
        """Number of positions that carry a label. Waits for the device where the batch is on one, once."""
        return int((self.labels != IGNORED).sum())

    def check(self, vocabulary: int) -> None:
        """Raise SettingError where a token id or a label is none of the model's `vocabulary` tokens."""
        for name, values in (("token ids", self.token_ids), ("labels", self.labels[self.labels != IGNORED])):
            if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
                raise SettingError(f"{name}: {values.dtype} is no dtype of whole numbers")
            if not values.numel():
                continue
            least, most = (int(each) for each in values.aminmax())
            if least < 0 or most >= vocabulary:
                wrong = least if least < 0 else most
                but = f", nor {IGNORED}" if name == "labels" else ""
                raise SettingError(
                    f"{name}: {wrong} is none of the model's {vocabulary} tokens (0 to {vocabulary - 1}){but}"
                )


@usual_modes()
def join(
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], columns: Sequence[np.ndarray] | None = None
) -> PackedBatch:
    """Return one batch of all the sequences, each (token_ids, mask): mask is True at the tokens that are trained on.

    `columns`: for each sequence [tokens, columns], values of each token. Raises ValueError where a sequence is empty or its
    mask or its columns have another length.
    """
    token_ids, labels, positions, ends = [], [], [], [0]
    for ids, mask in sequences:
        if len(ids) != len(mask) or not ids:
            raise ValueError(f"a sequence has {len(ids)} token ids and {len(mask)} mask values")
        token_ids += ids
        labels += [after if trained else IGNORED for after, trained in zip(ids[1:], mask[1:])] + [IGNORED]
        positions += range(len(ids))
        ends.append(len(token_ids))
    return PackedBatch(
        torch.tensor(token_ids),
        torch.tensor(labels),
        torch.tensor(positions),
        torch.tensor(ends, dtype=torch.int32),
        max((len(ids) for ids, _ in sequences)),
        None if columns is None else _of_labels([len(ids) for ids, _ in sequences], columns),
    )


def with_columns(batch: PackedBatch, columns: Sequence[np.ndarray]) -> PackedBatch:
    """Return the batch with other columns: those of each of its sequences, as `join` takes them. Raises ValueError likewise."""
    return replace(batch, columns=_of_labels(batch.cu_seqlens.diff().tolist(), columns))


def _of_labels(lengths: Sequence[int], columns: Sequence[np.ndarray]) -> Tensor:
    """The values of each position's label, which is the next token; zeros where there is none."""
    shifted = []
    for length, values in zip(lengths, columns, strict=True):
        if length != len(values):
            raise ValueError(f"a sequence has {length} token ids and {len(values)} rows of columns")
        shifted += [values[1:], np.zeros_like(values[:1])]
    return torch.from_numpy(np.concatenate(shifted).astype(np.float32))


@usual_modes()
def split(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """Return the batch's sequences dealt out to so many batches, the longest first to the one with the fewest tokens.

    A part may be empty.
    """
    bounds = batch.cu_seqlens.tolist()
    segments = [slice(start, end) for start, end in zip(bounds, bounds[1:])]
    shares: list[list[slice]] = [[] for _ in range(parts)]
    for segment in sorted(segments, key=lambda segment: segment.start - segment.stop):
        min(shares, key=lambda share: sum(s.stop - s.start for s in share)).append(segment)
    return [_selected(batch, sorted(share, key=lambda segment: segment.start)) for share in shares]


def _selected(batch: PackedBatch, segments: list[slice]) -> PackedBatch:
    def joined(tensor: Tensor) -> Tensor:
        return torch.cat([tensor[segment] for segment in segments] or [tensor[:0]])

    lengths = [segment.stop - segment.start for segment in segments]
    return PackedBatch(
        joined(batch.token_ids),
        joined(batch.labels),
        joined(batch.positions),
        torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        max(lengths, default=0),
        None if batch.columns is None else joined(batch.columns),
    )


def pack(sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], budget: int) -> list[PackedBatch]:
    """Return the sequences, each (token_ids, mask), as batches of at most `budget` tokens, none of them split.

    As few batches as can be, nearly equal in tokens and in tokens that are trained on; where lengths are close, the order of
    the sequences decides who is with whom. Raises SettingError where a sequence is longer than the budget.
    """
    for index, (ids, _) in enumerate(sequences):
        if len(ids) > budget:
            raise SettingError(f"training.batch_tokens: sequence {index} has {len(ids)} tokens, the budget is {budget}")
    lengths, supervised = [len(ids) for ids, _ in sequences], [sum(mask[1:]) for _, mask in sequences]
    return [join([sequences[i] for i in chosen]) for chosen in packing.deal(lengths, supervised, budget)]
