"""Parquet shards: finished episodes on disk, every field, immutable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agentloop.records import Trajectory

Purpose = Literal["collect", "evaluate"]


def write_shard(path: Path, trajectories: Sequence[Trajectory], *, purpose: Purpose, campaign: str, iteration: int) -> None:
    """Write a shard that either exists whole or not at all (temporary name, fsync, rename, fsync of the directory).

    A whole shard of the same trajectories that is already there is kept: shards never change. Raises ShardError where the
    path holds other trajectories, DiskError (naming the path) where it cannot be written.
    """
    raise NotImplementedError


def read_shard(path: Path) -> list[Trajectory]:
    """Every trajectory of a shard, in the order it was written. Raises ShardError, naming the file, where it is damaged."""
    raise NotImplementedError


def is_whole(path: Path) -> bool:
    """True where the path holds a complete shard of this schema (reads the footer only)."""
    raise NotImplementedError
