"""From shards into the database: each shard once, each trajectory once, a damaged shard set aside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agentloop.store.database import Database
from agentloop.store.shards import Purpose


@dataclass(frozen=True)
class IngestReport:
    shards: int
    """Shards that were new."""
    known: int
    """Shards that had been ingested before."""
    damaged: tuple[str, ...]
    """Files set aside: renamed to `*.damaged` and recorded in the table `shards` with the reason."""
    trajectories: int
    """Trajectories that were new."""
    duplicates: int
    """Trajectories in new shards that the database already had: the first one stays."""


def ingest(
    database: Database, shards: Iterable[Path], *, campaign: str | None = None, iteration: int | None = None,
    purpose: Purpose | None = None,
) -> IngestReport:
    """Take shards into the database, in bounded memory. Any subset, any order, any number of times: the same end state.

    The trajectories are counted to the campaign, iteration and purpose given here, by default to those in the shard: a
    shard is named by its trajectories alone, so another campaign may have written it first. A shard that cannot be read
    is set aside and the others go on. Raises StoreError naming the file where one does not exist.
    """
    raise NotImplementedError
