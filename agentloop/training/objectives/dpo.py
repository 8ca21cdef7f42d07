"""Direct preference optimisation: of two episodes at one task the better one gains on the other.

Rafailov et al., "Direct Preference Optimization" (2023), with the winner's likelihood of Pang et al., "Iterative Reasoning
Preference Optimization" (2024). With g the log probability of an episode's tokens less that under the reference:

    loss = -log sigmoid(beta (g_winner - g_loser))  +  nll * mean over the winner's tokens of -log p

and the mean of these over a step's pairs. The coefficient of d(-log p) is beta sigmoid(-beta (g_winner - g_loser)) for each of
the winner's tokens, and its negative for the loser's. The reference is the policy that sampled both, by the log probabilities
stored with the tokens, or the base.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from agentloop.errors import ModelError
from agentloop.settings import Dpo as DpoSettings
from agentloop.training.example import Example
from agentloop.training.objectives.episodes import EPISODE, Episodes
from agentloop.training.objectives.objective import WEIGHT, Row, Settled


class Dpo(Episodes):
    """Direct preference optimisation; a group is a pair."""

    def __init__(self, settings: DpoSettings) -> None:
        super().__init__(settings.reference)
        self._beta, self._nll = settings.beta, settings.nll
        self._pairs: dict[int, tuple[int, int]] = {}

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Both sides of each pair. Raises ModelError where a group is no pair of a success and a failure."""
        sides: dict[int, dict[bool, set[int]]] = defaultdict(lambda: {True: set(), False: set()})
        written: dict[int, int] = defaultdict(int)
        for each in examples:
            sides[each.group][each.solved].add(each.episode)
            written[each.episode] += each.written
        for group, found in sides.items():
            if (len(found[True]), len(found[False])) != (1, 1):
                raise ModelError(
                    f"training.objective: dpo learns from pairs, but group {group} of the dataset has {len(found[True])} "
                    f"successes and {len(found[False])} failures"
                )
        self._pairs = {group: (min(found[True]), min(found[False])) for group, found in sides.items()}
        rows = self._rows(examples, [each.group for each in examples])
        for row in rows:
            winner, _ = self._pairs[row.unit]
            if row.columns is not None:
                won = row.columns[:, EPISODE] == winner
                row.columns[won, WEIGHT] = self._nll / max(written[winner], 1)
        return rows

    def settle(self, rows: Sequence[Row], gains: Tensor) -> Settled:
        pairs = torch.tensor([self._pairs[unit] for unit in sorted({row.unit for row in rows})])
        winners, losers = pairs.unbind(1)
        margins = self._beta * (gains[winners] - gains[losers])
        push = self._beta * torch.sigmoid(-margins)
        factors = torch.zeros_like(gains)
        factors.index_add_(0, winners, push).index_add_(0, losers, -push)
        return Settled(factors, float(-logsigmoid(margins).sum()), float((margins > 0).double().mean()))
