"""Optimizer steps: which rows of an objective are trained on together, in which packed batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agentloop.engine.batch import PackedBatch, join, packing, split, with_columns
from agentloop.errors import SettingError
from agentloop.training.objectives.objective import Objective, Row


@dataclass(frozen=True)
class Step:
    """One optimizer step. Its batches' gradients are added up."""

    epoch: int
    rows: tuple[tuple[Row, ...], ...]
    """Those of each batch, in its order."""
    batches: tuple[PackedBatch, ...]
    divisor: float
    """What all coefficients are divided by."""

    @property
    def tokens(self) -> int:
        """Return the tokens of all batches."""
        return sum(batch.tokens for batch in self.batches)

    @property
    def supervised(self) -> int:
        """Return the tokens of all batches that are trained on."""
        return sum(batch.supervised for batch in self.batches)

    def shares(self, index: int, count: int, *, weighed: bool = True) -> list[PackedBatch]:
        """Return what process `index` of `count` computes: of each batch a share.

        With `weighed` it has the columns that its rows have now. They take as much memory as all else, so a step asks for them
        when it begins.
        """
        found = []
        for rows, batch in zip(self.rows, self.batches, strict=True):
            columns = [row.columns for row in rows if row.columns is not None] if weighed else []
            whole = with_columns(batch, columns) if columns else batch
            found.append(whole if count == 1 else split(whole, count)[index])
        return found


def plan(rows: Sequence[Row], objective: Objective, *, budget: int, epochs: int, seed: int) -> list[Step]:
    """Return every step of a run: each epoch is another shuffle of all units, and a step one batch of at most `budget` tokens.

    A unit that is longer than the budget has a step of its own, of several batches. Raises SettingError where a row is longer.
    """
    for index, row in enumerate(rows):
        if len(row.token_ids) > budget:
            raise SettingError(
                f"training.batch_tokens: sequence {index} has {len(row.token_ids)} tokens, the budget is {budget}"
            )
    units: dict[int, list[Row]] = {}
    for row in rows:
        units.setdefault(row.unit, []).append(row)
    steps = []
    for epoch in range(epochs):
        order = list(units)
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for batches in _dealt([units[unit] for unit in order], budget):
            own = [row for batch in batches for row in batch]
            packed = tuple(join([(row.token_ids, row.mask) for row in batch]) for batch in batches)
            steps.append(Step(epoch, tuple(map(tuple, batches)), packed, objective.divisor(own)))
    return steps


def _dealt(units: Sequence[list[Row]], budget: int) -> list[list[list[Row]]]:
    """For each step the rows of each of its batches."""
    small = [unit for unit in units if _length(unit) <= budget]
    shared = packing.deal([_length(unit) for unit in small], [_supervised(unit) for unit in small], budget)
    steps = [[[row for index in step for row in small[index]]] for step in shared]
    for unit in units:
        if _length(unit) > budget:
            dealt = packing.deal([len(row.token_ids) for row in unit], [row.supervised for row in unit], budget)
            steps.append([[unit[index] for index in batch] for batch in dealt])
    return steps


def _length(unit: Sequence[Row]) -> int:
    return sum(len(row.token_ids) for row in unit)


def _supervised(unit: Sequence[Row]) -> int:
    return sum(row.supervised for row in unit)
