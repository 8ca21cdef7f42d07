"""A row of a dataset from which failures are learnt as well: tokens, how probable they were, what they were worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentloop.records import SOLVED


@dataclass(frozen=True, eq=False)
class Example:
    """One conversation of an episode, as it was sampled."""

    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True at the tokens that are trained on. [tokens]"""
    logprobs: np.ndarray
    """float32 [tokens]: log probability of each token under the policy that wrote it, in nats; 0 where mask is False."""
    turn_rewards: np.ndarray
    """float32 [tokens]: reward of the model turn that ends with this token; NaN where none does, or none was given."""
    reward: float = 1.0
    """Reward of the whole episode."""
    weight: float = 1.0
    """How much the row counts beside the others."""
    group: int = 0
    """Number of the samples that it is compared with: those of one policy at one task, or the two of a preference pair."""
    episode: int = 0
    """Number of its episode, from 0 without gaps; an episode of several conversations has several rows."""

    @classmethod
    def success(cls, token_ids: Sequence[int], mask: Sequence[bool], *, episode: int = 0) -> Example:
        """A row of which nothing but its tokens is known."""
        size = len(token_ids)
        nothing = np.full(size, np.nan, np.float32)
        return cls(tuple(token_ids), tuple(mask), np.zeros(size, np.float32), nothing, group=episode, episode=episode)

    @property
    def solved(self) -> bool:
        """Return True where the episode is a success."""
        return self.reward >= SOLVED

    @property
    def written(self) -> int:
        """Return the number of tokens that can be trained on; the first of all is predicted by nothing."""
        return sum(self.mask[1:])
