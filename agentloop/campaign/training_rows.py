"""What a training run is given of its dataset: tokens, and where failures are learnt from as well what each row was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentloop.records import Dataset
from agentloop.store import datasets
from agentloop.store.database import Database
from agentloop.store.datasets import TokenRow
from agentloop.training import rows
from agentloop.training.example import Example


@dataclass(frozen=True)
class DatasetRows:
    """A dataset's rows in memory: conversations, of which an episode may have several."""

    tokens: Sequence[TokenRow]
    examples: Sequence[Example] | None
    """The same with what they were worth; None where all are successes."""

    def write(self, path: Path) -> None:
        """Write them for the trainer, which opens no database. Keeps a file that is there."""
        if self.examples is None:
            rows.write(path, ((row.token_ids, row.mask) for row in self.tokens))
        else:
            rows.write_examples(path, self.examples)


def gather(database: Database, dataset_id: str) -> DatasetRows:
    """Read a dataset's rows from the shards. Raises StoreError for an unknown dataset, ShardError where a shard is gone."""
    dataset = datasets.load(database, dataset_id)
    worth = _worth(database, dataset)
    episodes = datasets.tokens(database, dataset.trajectories, turn_rewards=worth is not None)
    found = [part for row in episodes for part in row.conversations()]
    if worth is None:
        return DatasetRows(found, None)
    numbers = {trajectory: number for number, trajectory in enumerate(dataset.trajectories)}
    return DatasetRows(found, [_example(row, numbers[row.trajectory], *worth[row.trajectory]) for row in found])


def _worth(database: Database, dataset: Dataset) -> Mapping[str, tuple[float, int]] | None:
    """(reward, group) of each trajectory: those of one policy at one task are a group, or the two of a pair."""
    if dataset.parameters.get("pairs"):
        return {name: (float(place % 2 == 0), place // 2) for place, name in enumerate(dataset.trajectories)}
    if not dataset.rewards:
        return None
    sampled = database.execute(
        "SELECT id, policy, task FROM trajectories WHERE id IN (SELECT unnest($names))",
        {"names": list(dataset.trajectories)},
    )
    origin = {name: (policy, task) for name, policy, task in sampled}
    groups: dict[tuple[str, str], int] = {}
    return {
        name: (reward, groups.setdefault(origin[name], len(groups)))
        for name, reward in zip(dataset.trajectories, dataset.rewards, strict=True)
    }


def _example(row: TokenRow, episode: int, reward: float, group: int) -> Example:
    none = np.full(len(row.token_ids), np.nan, np.float32)
    return Example(
        tuple(row.token_ids.tolist()),
        tuple(row.mask.tolist()),
        logprobs=row.logprobs,
        turn_rewards=none if row.turn_rewards is None else row.turn_rewards,
        reward=reward,
        group=group,
        episode=episode,
    )
