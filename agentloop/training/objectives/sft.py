"""Cross-entropy on successes and, if asked for, the first step of a failure away from them made less probable.

    loss = sum over tokens of successes of -log p    +    a * sum over the tokens at which failures leave them of [p > h] log p

The first sum is rejection sampling fine-tuning (Yuan et al., "Scaling Relationship on Learning Mathematical Reasoning with
Large Language Models", 2023). The second, with a = `push_down` and h = `push_above`, takes from unlikelihood training (Welleck
et al., "Neural Text Generation with Unlikelihood Training", 2020) that what is not wanted is made less probable, but only the
one token with which a failure leaves every success of its group, and only while the model gives it more than h: what comes
after may have been right, and what is improbable already would only spread its mass over the whole vocabulary. The gate counts
as a constant. A step's loss is divided by its tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from agentloop.settings import Sft as SftSettings
from agentloop.training.example import Example
from agentloop.training.objectives.objective import WEIGHT, Policy, Row, columns_of, common


@dataclass(frozen=True)
class Gated:
    """The column WEIGHT; where that is negative, only while the token is more probable than `above`."""

    above: float

    def __call__(self, losses: Tensor, columns: Tensor) -> Tensor:
        weight = columns[:, WEIGHT]
        return torch.where((weight >= 0) | ((-losses).exp() > self.above), weight, 0.0)


class Sft:
    """Cross-entropy on successes."""

    asks: Mapping[Policy, int] = {}

    def __init__(self, settings: SftSettings) -> None:
        self._push_down = settings.push_down
        self._gate = Gated(settings.push_above)
        self.rule: Gated | None = None

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Every example, or, where failures are learnt from, each success once and behind them each first step away once."""
        if not self._push_down and all(each.weight == 1 for each in examples):
            self.rule = None
            return [_row(each, unit) for unit, each in enumerate(examples)]
        self.rule = self._gate
        solved = [each for each in examples if each.solved]
        if self._push_down:
            solved = list({each.token_ids: each for each in reversed(solved)}.values())[::-1]
        weighed = [(each, each.weight) for each in solved]
        if self._push_down:
            weighed += [(each, -self._push_down * each.weight) for each in departures(examples)]
        return [_weighed(each, unit, weight) for unit, (each, weight) in enumerate(weighed)]

    def divisor(self, rows: Sequence[Row]) -> float:
        """The step's tokens."""
        return max(sum(row.tokens for row in rows), 1)

    def figures(self, losses: Tensor, columns: Tensor) -> dict[str, Tensor]:
        return {"loss": (self._gate(losses, columns) * losses).sum(), **common(losses, columns)}


def departures(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield each failure up to the token with which it leaves every success of its group, that token alone trained on.

    Left out are failures that end before they leave, those that something else than the model led away, and those that leave
    where another did, in the same way.
    """
    successes: dict[int, list[Example]] = defaultdict(list)
    for each in examples:
        if each.solved:
            successes[each.group].append(each)
    seen = set()
    for each in examples:
        if each.solved:
            continue
        shared = max((_in_common(each.token_ids, other.token_ids) for other in successes[each.group]), default=0)
        end = shared + 1
        if not shared or end > len(each.token_ids) or not each.mask[end - 1] or each.token_ids[:end] in seen:
            continue
        seen.add(each.token_ids[:end])
        yield replace(
            each,
            token_ids=each.token_ids[:end],
            mask=(*[False] * (end - 1), True),
            logprobs=each.logprobs[:end],
            turn_rewards=each.turn_rewards[:end],
        )


def _in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _row(example: Example, unit: int) -> Row:
    return Row(example.token_ids, example.mask, unit, example.written)


def _weighed(example: Example, unit: int, weight: float) -> Row:
    columns = columns_of(example, 0)
    columns[:, WEIGHT] = weight
    return replace(_row(example, unit), columns=columns)
