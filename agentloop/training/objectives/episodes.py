"""What objectives that go by whole episodes have in common: a column with the episode's number, one with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from agentloop.training.example import Example
from agentloop.training.objectives.objective import OWN, SAMPLED, WEIGHT, Policy, Row, Weights, columns_of, common

EPISODE, REFERENCE = OWN, OWN + 1


class Episodes:
    """The columns of such an objective, and the policy that log probabilities are compared with."""

    rule = Weights()
    episode, reference = EPISODE, REFERENCE

    def __init__(self, reference: Literal["sampled", "base"]) -> None:
        self.asks: Mapping[Policy, int] = {"base": REFERENCE} if reference == "base" else {}
        self.episodes = 0

    def divisor(self, rows: Sequence[Row]) -> float:
        """The step's pairs or episodes."""
        return len({row.unit for row in rows})

    def figures(self, losses: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """The `loss` is that of what each token counts by itself; the rest is told by `settle`."""
        return {"loss": (losses * columns[:, WEIGHT]).sum(), **common(losses, columns)}

    def _rows(self, examples: Sequence[Example], units: Sequence[int]) -> list[Row]:
        self.episodes = 1 + max(each.episode for each in examples)
        rows = []
        for example, unit in zip(examples, units, strict=True):
            if example.written:
                columns = columns_of(example, 2)
                columns[:, EPISODE] = example.episode
                columns[:, REFERENCE] = columns[:, SAMPLED]
                rows.append(Row(example.token_ids, example.mask, unit, example.written, columns))
        return rows
