"""Datasets: ordered choices of trajectories, and their tokens for the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agentloop.records import Dataset
from agentloop.store.database import Database


@dataclass(frozen=True)
class TokenRow:
    """One trajectory as it is trained on."""

    trajectory: str
    token_ids: np.ndarray
    """int32 [tokens]"""
    mask: np.ndarray
    """bool [tokens], True where the model produced the token"""
    logprobs: np.ndarray
    """float32 [tokens], 0 where mask is False"""


def save(database: Database, dataset: Dataset, *, campaign: str, iteration: int, funnel: tuple[tuple[str, int], ...] = ()) -> None:
    """Store a dataset with its rows and the selection that made it; once only."""
    raise NotImplementedError


def load(database: Database, dataset_id: str) -> Dataset:
    """Raises StoreError for an unknown id."""
    raise NotImplementedError


def rows(database: Database, dataset_id: str) -> Iterator[TokenRow]:
    """The rows in dataset order, read from the shards. The database may be closed once the first row is out.

    Raises ShardError naming the file where a shard is missing or damaged.
    """
    raise NotImplementedError
