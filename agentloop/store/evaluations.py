"""Evaluations: success of a policy on held-out tasks, made from stored and scored trajectories."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop.records import Evaluation, Sampling
from agentloop.store.database import Database


def measure(database: Database, *, policy: str, tasks: Sequence[str], samples: int, seed: int, sampling: Sampling) -> Evaluation:
    """The evaluation made of the trajectories that these names plan for, from their newest `success` scores.

    A sample counts as solved where its score is at least 0.5. Raises StoreError, naming the first, where a trajectory is
    not in the database or not scored.
    """
    raise NotImplementedError


def save(database: Database, evaluation: Evaluation, *, campaign: str, iteration: int, role: str, suite: str = "heldout") -> None:
    """Store an evaluation; once only. `role`: champion, challenger, control or base."""
    raise NotImplementedError


def load(database: Database, evaluation_id: str) -> Evaluation:
    """Raises StoreError for an unknown id."""
    raise NotImplementedError
