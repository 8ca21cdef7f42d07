"""Datasets: ordered choices of trajectories, and their tokens for the trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agentloop.errors import ShardError, StoreError
from agentloop.naming import canonical_json
from agentloop.records import Dataset
from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.shards import read_columns


@dataclass(frozen=True)
class TokenRow:
    """The tokens of one trajectory, or of one of its conversations."""

    trajectory: str
    token_ids: np.ndarray
    """int32 [tokens]"""
    mask: np.ndarray
    """bool [tokens], True where the model produced the token"""
    logprobs: np.ndarray
    """float32 [tokens], 0 where mask is False"""
    starts: tuple[int, ...] = (0,)
    """Index of the first token of each conversation."""
    first: int = 0
    """Of a conversation: index of its first token among the trajectory's."""
    turn_rewards: np.ndarray | None = None
    """float32 [tokens]: reward of the model turn that ends with this token, NaN where there is none; None: nobody asked."""

    def conversations(self) -> Iterator[TokenRow]:
        """Yield each conversation as a row of its own, as it is trained on; one in which the model produced nothing is left
        out. The first token, which nothing precedes, does not count.
        """
        for start, end in zip(self.starts, [*self.starts[1:], len(self.token_ids)], strict=True):
            if self.mask[start + 1 : end].any() or len(self.starts) == 1:
                token_ids, mask, logprobs = (each[start:end] for each in (self.token_ids, self.mask, self.logprobs))
                rewards = None if self.turn_rewards is None else self.turn_rewards[start:end]
                yield TokenRow(self.trajectory, token_ids, mask, logprobs, first=start, turn_rewards=rewards)


def save(
    database: Database, dataset: Dataset, *, campaign: str, iteration: int, funnel: Sequence[tuple[str, int]] = ()
) -> None:
    """Store a dataset with its rows and the selection that made it; once only."""
    with database.transaction():
        if not database.execute("SELECT 1 FROM datasets WHERE id = ?", [dataset.id]):
            database.execute(
                "INSERT INTO datasets VALUES (?, ?, ?, ?, ?)",
                [dataset.id, dataset.recipe, canonical_json(dataset.parameters), len(dataset.trajectories), now()],
            )
            database.execute(
                "INSERT INTO dataset_rows "
                "SELECT $id, generate_subscripts($rows, 1) - 1, unnest($rows), unnest($rewards::DOUBLE[])",
                {
                    "id": dataset.id,
                    "rows": list(dataset.trajectories),
                    "rewards": list(dataset.rewards) or [None] * len(dataset.trajectories),
                },
            )
        database.execute(
            "INSERT INTO selections VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [campaign, iteration, dataset.id, canonical_json([list(step) for step in funnel]), now()],
        )


def load(database: Database, dataset_id: str) -> Dataset:
    """Raises StoreError for an unknown id."""
    found = database.execute("SELECT recipe, parameters FROM datasets WHERE id = ?", [dataset_id])
    if not found:
        raise StoreError(f"{database.path}: no dataset {dataset_id}")
    recipe, parameters = found[0]
    rows = database.execute(
        "SELECT trajectory, reward FROM dataset_rows WHERE dataset = ? ORDER BY position", [dataset_id]
    )
    rewards = tuple(reward for _, reward in rows if reward is not None)
    return Dataset(tuple(trajectory for trajectory, _ in rows), recipe, json.loads(parameters), rewards)


def rows(database: Database, dataset_id: str) -> Iterator[TokenRow]:
    """The rows in dataset order, read from the shards: each shard once, so all rows are in memory (9 bytes a token).

    The database may be closed as soon as this returns. Raises StoreError for an unknown dataset, and as `tokens` does.
    """
    return tokens(database, load(database, dataset_id).trajectories)


def tokens(database: Database, trajectories: Sequence[str], *, turn_rewards: bool = False) -> Iterator[TokenRow]:
    """The tokens of trajectories, in their order; with `turn_rewards` what their turns were worth as well.

    Raises StoreError for one that was never ingested, ShardError naming the file where a shard is missing, damaged, pruned
    or holds other rows.
    """
    places = database.execute(
        """
        SELECT r.trajectory, h.path, t.position, h.status
        FROM (SELECT unnest($names) AS trajectory, generate_subscripts($names, 1) AS place) r
        LEFT JOIN trajectories t ON t.id = r.trajectory
        LEFT JOIN shards h ON h.number = t.shard
        ORDER BY r.place
        """,
        {"names": list(trajectories)},
    )
    for trajectory, path, _, status in places:
        if path is None:
            raise StoreError(f"{database.path}: {trajectory} is not in the database")
        if status == "pruned":
            raise ShardError(f"{database.resolve(path)}: the file was pruned, and with it the tokens of {trajectory}")
    read = [(trajectory, database.resolve(path), position) for trajectory, path, position, _ in places]
    return _read(read, turn_rewards)


def _read(places: list[tuple[str, Path, int]], turn_rewards: bool) -> Iterator[TokenRow]:
    wanted: dict[Path, list[tuple[str, int]]] = {}
    for trajectory, path, position in places:
        wanted.setdefault(path, []).append((trajectory, position))
    found = {row.trajectory: row for path, rows in wanted.items() for row in _shard_rows(path, rows, turn_rewards)}
    return (found[trajectory] for trajectory, _, _ in places)


def _shard_rows(path: Path, rows: list[tuple[str, int]], turn_rewards: bool) -> Iterator[TokenRow]:
    """`rows`: (trajectory, position in the file)."""
    table = read_columns(path, ["id", "token_ids", "mask", "logprobs", "starts", *(["turns"] if turn_rewards else [])])
    ids, starts = table["id"].to_pylist(), table["starts"].to_pylist()
    lists = [table[name].combine_chunks() for name in ("token_ids", "mask", "logprobs")]
    flat = [(each.offsets.to_numpy(), each.values.to_numpy(zero_copy_only=False)) for each in lists]
    for trajectory, position in rows:
        if position >= len(ids) or ids[position] != trajectory:
            raise ShardError(f"{path}: row {position} is not {trajectory}")
        # Copies, so that a chosen row does not keep the whole shard in memory.
        token_ids, mask, logprobs = (
            values[offsets[position] : offsets[position + 1]].copy() for offsets, values in flat
        )
        row = TokenRow(trajectory, token_ids, mask, logprobs, tuple(starts[position] or (0,)))
        yield replace(row, turn_rewards=_rewards(table["turns"][position].as_py(), len(mask))) if turn_rewards else row


def _rewards(turns: list[dict[str, Any]], size: int) -> np.ndarray:
    rewards = np.full(size, np.nan, np.float32)
    for turn in turns:
        # what an older shard says of its turns lacks the field
        if turn.get("reward") is not None and turn["token_end"] > turn["token_start"]:
            rewards[turn["token_end"] - 1] = turn["reward"]
    return rewards
