"""Kahneman-Tversky optimisation: successes gain and failures lose, without pairs.

Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization" (2024). With g the log probability of an episode's
tokens less that under the reference, and z the mean of g over the step's episodes, 0 at least:

    loss = desirable (1 - sigmoid(beta (g - z)))  for a success,    undesirable (1 - sigmoid(beta (z - g)))  for a failure

and the mean of these over a step's episodes, with z as a constant. The coefficient of d(-log p) is desirable beta s (1 - s)
for a success's tokens, with s the sigmoid above, and -undesirable beta s (1 - s) for a failure's. The paper estimates z from
answers to other prompts; an episode with tool results is no answer to another task, so the step's own episodes serve here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agentloop.settings import Kto as KtoSettings
from agentloop.training.example import Example
from agentloop.training.objectives.episodes import Episodes
from agentloop.training.objectives.objective import Row, Settled


class Kto(Episodes):
    """Kahneman-Tversky optimisation."""

    def __init__(self, settings: KtoSettings) -> None:
        super().__init__(settings.reference)
        self._beta, self._desirable, self._undesirable = settings.beta, settings.desirable, settings.undesirable
        self._solved = torch.zeros(0, dtype=torch.bool)

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """All conversations; those of an episode are one unit."""
        rows = self._rows(examples, [each.episode for each in examples])
        self._solved = torch.zeros(self.episodes, dtype=torch.bool)
        for each in examples:
            self._solved[each.episode] = each.solved
        return rows

    def settle(self, rows: Sequence[Row], gains: Tensor) -> Settled:
        episodes = torch.tensor(sorted({row.unit for row in rows}))
        solved, gained = self._solved[episodes], gains[episodes]
        sign = torch.where(solved, 1.0, -1.0).to(gains.dtype)
        worth = torch.where(solved, self._desirable, self._undesirable).to(gains.dtype)
        share = torch.sigmoid(self._beta * sign * (gained - gained.mean().clamp(min=0)))
        factors = torch.zeros_like(gains)
        factors[episodes] = sign * worth * self._beta * share * (1 - share)
        return Settled(factors, float((worth * (1 - share)).sum()))
