"""The protocol of an objective, and the rows that it makes of examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from agentloop.engine.step.rule import Rule
from agentloop.training.example import Example

WEIGHT, SAMPLED, SUCCESS = 0, 1, 2
"""Columns of every objective that has any: what a token counts, its stored log probability, and 1 where its episode is a
success."""
OWN = 3
"""First of the columns that an objective adds."""
FAR = 20.0
"""Nats that log probabilities count as apart at most: beyond that a ratio is no number any more."""

Policy = Literal["base", "start"]
"""Policies that are asked for log probabilities before the first step: the base, and what training starts from."""


@dataclass(eq=False)
class Row:
    """A sequence as it is trained on."""

    token_ids: Sequence[int]
    mask: Sequence[bool]
    """True at the tokens whose coefficient may differ from 0. [tokens]"""
    unit: int
    """Rows of the same unit are in the same optimizer step."""
    tokens: int
    """Tokens that the model wrote, whatever their coefficients."""
    columns: np.ndarray | None = None
    """float32 [tokens, columns]: what the objective's rule goes by; None where all coefficients are 1."""
    weight: float = 1.0
    """Number of samples that it stands for."""

    @property
    def supervised(self) -> int:
        """Return the number of tokens that are trained on; the first of all is predicted by nothing."""
        return sum(self.mask[1:])


class Objective(Protocol):
    """Coefficients of the tokens' gradients."""

    @property
    def rule(self) -> Rule | None:
        """Return what gives the coefficients, but for the divisor; None: all are 1. Known when `rows` was asked."""

    @property
    def asks(self) -> Mapping[Policy, int]:
        """Return the policies whose log probabilities it needs, with the columns that these belong in."""

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Return what is trained on, in an order that follows from the examples alone."""

    def divisor(self, rows: Sequence[Row]) -> float:
        """Return what all coefficients of an optimizer step on these rows are divided by."""

    def figures(self, losses: Tensor, columns: Tensor) -> dict[str, Tensor]:
        """Return sums over tokens: the `loss`, not yet divided, and what else is to be known of a step.

        `losses` [supervised]: cross-entropies in nats; `columns` [supervised, columns].
        """


@dataclass(frozen=True)
class Settled:
    """Coefficients that follow from the log probabilities of whole episodes."""

    factors: Tensor
    """[episodes]: added to the coefficients of the episode's tokens; 0 for episodes of other steps."""
    loss: float
    """Sum over the step's pairs or episodes."""
    preferred: float | None = None
    """Share of pairs whose better side gained more than the other."""


@runtime_checkable
class ByEpisode(Protocol):
    """An objective whose coefficients depend on the log probabilities of whole episodes.

    A forward pass finds these first, whatever batches an episode or a pair is spread over; then every batch has coefficients
    that are known, and its gradient is added to the others'.
    """

    episode: int
    """Column with the number of the token's episode."""
    reference: int
    """Column with the log probability that the token's own is compared with."""
    episodes: int
    """Number of all episodes."""

    def settle(self, rows: Sequence[Row], gains: Tensor) -> Settled:
        """Return the coefficients of the rows' episodes.

        `gains` [episodes] fp64 on the CPU: sum over an episode's tokens of log probability less the reference.
        """


@dataclass(frozen=True)
class Weights:
    """The rule of coefficients that are known beforehand: the column WEIGHT."""

    def __call__(self, losses: Tensor, columns: Tensor) -> Tensor:
        return columns[:, WEIGHT]


def columns_of(example: Example, own: int) -> np.ndarray:
    """Return columns with the stored log probabilities and the success filled in, and `own` more: [tokens, OWN + own]."""
    columns = np.zeros((len(example.token_ids), OWN + own), np.float32)
    columns[:, SAMPLED] = example.logprobs
    columns[:, SUCCESS] = example.solved
    return columns


def ratio(logprobs: Tensor, others: Tensor) -> Tensor:
    """Return how many times as probable a token is; differences beyond FAR count as FAR."""
    return (logprobs - others).clamp(-FAR, FAR).exp()


def divergence(losses: Tensor, columns: Tensor) -> Tensor:
    """Return for each token an estimate of the KL divergence from the policy that sampled it, never negative.

    With r how many times as probable the token is now, r - 1 - log r: Schulman, "Approximating KL Divergence" (2020).
    """
    change = (-losses - columns[:, SAMPLED]).clamp(-FAR, FAR)
    return torch.expm1(change) - change


def common(losses: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """Return the sums that every objective with columns can tell: cross-entropy of successes, their tokens, divergence."""
    success = columns[:, SUCCESS]
    return {
        "nll": (losses * success).sum(),
        "successes": success.sum(),
        "kl": divergence(losses, columns).sum(),
    }
