"""Scores: named, versioned numbers about trajectories, from SQL (scoring/*.sql) and from the environments' verifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentloop.records import Task
from agentloop.store.database import Database

Verify = Callable[[Task, str], float]
"""(task, answer as parsed) -> 1.0 for right, 0.0 for wrong, between for partly right. Pure."""


def score(
    database: Database, verifiers: Mapping[str, Verify] | Callable[[str], Verify], *, version: int = 1, campaign: str | None = None
) -> dict[str, int]:
    """Score what has no score yet: `success` by the environment's verifier, the others by scoring/*.sql.

    `verifiers` maps an environment's name to its verifier (a mapping or a function, for example
    `lambda name: environments.get(name).verify`). A trajectory without an answer has success 0. `version` is that of the
    verifiers: a new one scores the stored trajectories again, without any inference, and the old scores stay. Returns the
    number of new scores by scorer. Raises StoreError for an environment without a verifier.
    """
    raise NotImplementedError
