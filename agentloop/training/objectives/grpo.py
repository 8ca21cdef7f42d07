"""Group relative policy optimisation: samples of one task are each other's baseline.

Shao et al., "DeepSeekMath" (2024). For a token with advantage A, probability p and anchor q, with r = p / q:

    loss = -w min(r A, clip(r, 1 - low, 1 + high) A)  +  kl (s - 1 - log s),    s = base / p

so that the coefficient of d(-log p) is w A min(r, c) where r is not clipped, 0 where it is, and kl (s - 1) besides.

- A: the episode's reward less the mean of its group, over the group's standard deviation (`baseline = mean_std`) or not
  (`mean`, as in Liu et al., "Understanding R1-Zero-Like Training", 2025, which calls it Dr. GRPO). With `credit = turns`, as
  in DeepSeekMath's process supervision, the sum over this turn and later ones of their rewards, each less the mean of all turn
  rewards of the group, and over their standard deviation.
- low and high differ as in Yu et al., "DAPO" (2025). c, the largest ratio that counts (`truncate`), is truncated importance
  sampling (Ionides, "Truncated Importance Sampling", 2008); for what is worse than its group it is the third bound of Ye et
  al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning" (2020).
- q: with `anchor = sampled` the policy that sampled, by the log probabilities stored with the tokens, and w = 1. With `start`
  the policy that training starts from, as the trainer computes it, and w = min(q / sampled, c), as in Yao et al., "Your
  Efficient RL Framework Secretly Brings You Off-Policy RL Training" (2025).
- `normalization`: the sum over a step's tokens is divided by their number (DAPO); or each sequence's by its own number of
  tokens, and all by the number of sequences (DeepSeekMath); or all by the number of sequences times the mean length of a
  sequence in the dataset, a constant (Dr. GRPO).
- The estimator of the KL divergence: Schulman, "Approximating KL Divergence" (2020).

Samples that are the same token by token become one row with the sum of their advantages: the gradient is the same. Tokens
without an advantage are not trained on at all, unless there is a KL term.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agentloop.errors import ModelError
from agentloop.settings import Grpo as GrpoSettings
from agentloop.training.example import Example
from agentloop.training.objectives.objective import OWN, SAMPLED, WEIGHT, Policy, Row, columns_of, common, ratio

ANCHOR, BASE, SAMPLES = OWN, OWN + 1, OWN + 2
"""Columns: log probability under the anchor and under the base, and how much the KL term counts."""


@dataclass(frozen=True)
class ClippedRatio:
    """Coefficients of the clipped surrogate; the column WEIGHT is the advantage."""

    low: float
    high: float
    most: float
    """The largest ratio that counts."""
    corrected: bool
    """The anchor is another policy than the one that sampled."""
    kl: float

    def __call__(self, losses: Tensor, columns: Tensor) -> Tensor:
        now = ratio(-losses, columns[:, ANCHOR])
        found = torch.where(self.clips(now, columns), 0.0, columns[:, WEIGHT] * now.clamp(max=self.most))
        if self.corrected:
            found = found * self.correction(columns).clamp(max=self.most)
        if self.kl:
            found = found + self.kl * columns[:, SAMPLES] * (ratio(columns[:, BASE], -losses) - 1)
        return found

    def clips(self, now: Tensor, columns: Tensor) -> Tensor:
        """Return True where the ratio is beyond the clip already, in the direction that the advantage wants."""
        return torch.where(columns[:, WEIGHT] > 0, now > 1 + self.high, now < 1 - self.low)

    def correction(self, columns: Tensor) -> Tensor:
        """Return how many times as probable the anchor finds a token as the policy that sampled it."""
        return ratio(columns[:, ANCHOR], columns[:, SAMPLED])

    def values(self, losses: Tensor, columns: Tensor) -> Tensor:
        """Return each token's loss."""
        now, advantage = ratio(-losses, columns[:, ANCHOR]).clamp(max=self.most), columns[:, WEIGHT]
        found = -torch.minimum(now * advantage, now.clamp(1 - self.low, 1 + self.high) * advantage)
        if self.corrected:
            found = found * self.correction(columns).clamp(max=self.most)
        if self.kl:
            apart = ratio(columns[:, BASE], -losses)
            found = found + self.kl * columns[:, SAMPLES] * (apart - 1 - apart.log())
        return found


class Grpo:
    """Group relative policy optimisation."""

    def __init__(self, settings: GrpoSettings) -> None:
        self._settings = settings
        corrected = settings.anchor == "start"
        self.rule = ClippedRatio(settings.clip_low, settings.clip_high, settings.truncate, corrected, settings.kl)
        asks: dict[Policy, int] = {"start": ANCHOR} if corrected else {}
        self.asks: Mapping[Policy, int] = asks | ({"base": BASE} if settings.kl else {})
        self._length = 1.0

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Rows with an advantage anywhere; with a KL term all.

        Raises ModelError where turn rewards are asked for and there are none.
        """
        self._length = float(np.mean([max(each.written, 1) for each in examples]))
        advantages = self._advantages(examples)
        merged: dict[tuple, list[int]] = defaultdict(list)
        for index, each in enumerate(examples):
            merged[each.group, each.token_ids, each.mask].append(index)
        rows: list[Row] = []
        for same in merged.values():
            total = np.sum([advantages[index] for index in same], axis=0)
            row = self._row([examples[index] for index in same], total, len(rows))
            if row.supervised:
                rows.append(row)
        return rows

    def divisor(self, rows: Sequence[Row]) -> float:
        """The step's tokens, its sequences, or the tokens that these have in the mean."""
        if self._settings.normalization == "token":
            return max(sum(row.weight * row.tokens for row in rows), 1)
        sequences = sum(row.weight for row in rows)
        return sequences if self._settings.normalization == "sequence" else sequences * self._length

    def figures(self, losses: Tensor, columns: Tensor) -> dict[str, Tensor]:
        now = ratio(-losses, columns[:, ANCHOR])
        far = now > self.rule.most
        if self.rule.corrected:
            far = far | (self.rule.correction(columns) > self.rule.most)
        clipped = self.rule.clips(now, columns) & (columns[:, WEIGHT] != 0)
        return {
            "loss": self.rule.values(losses, columns).sum(),
            "clipped": clipped.sum(),
            "truncated": (far & ~clipped).sum(),
            **common(losses, columns),
        }

    def _row(self, same: Sequence[Example], advantage: np.ndarray, unit: int) -> Row:
        """`advantage` [tokens]: the sum of all their advantages."""
        first, samples = same[0], sum(each.weight for each in same)
        share = 1 / max(first.written, 1) if self._settings.normalization == "sequence" else 1.0
        columns = columns_of(first, 3)
        columns[:, SAMPLED] = columns[:, ANCHOR] = np.mean([each.logprobs for each in same], axis=0)
        columns[:, WEIGHT] = share * advantage
        columns[:, SAMPLES] = share * samples
        counts = np.array(first.mask) & ((advantage != 0) | bool(self._settings.kl))
        return Row(first.token_ids, tuple(counts.tolist()), unit, first.written, columns, samples)

    def _advantages(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """[tokens] of each example, times its weight."""
        by_turns = self._settings.credit == "turns"
        if by_turns and all(np.isnan(each.turn_rewards).all() for each in examples):
            raise ModelError("training.grpo.credit: turns, but no turn of the dataset was given a reward by its world")
        groups: dict[int, list[int]] = defaultdict(list)
        for index, each in enumerate(examples):
            groups[each.group].append(index)
        found: dict[int, np.ndarray] = {}
        for group in groups.values():
            members = [examples[index] for index in group]
            advantages = self._of_turns(members) if by_turns else self._of_episodes(members)
            found |= {i: examples[i].weight * each for i, each in zip(group, advantages, strict=True)}
        return [found[index] for index in range(len(examples))]

    def _of_episodes(self, group: Sequence[Example]) -> list[np.ndarray]:
        rewards = {each.episode: each.reward for each in group}
        relative = dict(zip(rewards, self._relative(np.array(list(rewards.values()))), strict=True))
        return [np.full(len(each.token_ids), relative[each.episode]) for each in group]

    def _of_turns(self, group: Sequence[Example]) -> list[np.ndarray]:
        rewards = [each.turn_rewards.astype(np.float64) for each in group]
        given = np.concatenate([each[~np.isnan(each)] for each in rewards])
        relative = iter(self._relative(given))
        found = []
        for each in rewards:
            placed = np.zeros(len(each))
            for place in np.flatnonzero(~np.isnan(each)):
                placed[place] = next(relative)
            found.append(np.flip(np.flip(placed).cumsum()))
        return found

    def _relative(self, rewards: np.ndarray) -> np.ndarray:
        """Less their mean, over their standard deviation where that is asked for; zeros where all are the same."""
        if not rewards.size or np.ptp(rewards) == 0:  # the mean of equal numbers may be another one by a rounding
            return np.zeros(len(rewards))
        relative = rewards - rewards.mean()
        return relative / rewards.std() if self._settings.baseline == "mean_std" else relative
