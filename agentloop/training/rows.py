"""A dataset's rows on disk, as the trainer reads them: token ids and masks, end to end, in one safetensors file.

The trainer's process opens no database: it is given this file, named by the dataset's content id. Where failures are learnt
from as well, it also says what each row was worth, and how probable the policy that wrote it found each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from agentloop.errors import ModelError
from agentloop.files import atomic
from agentloop.training.example import Example


def write(path: Path, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write (token_ids [tokens] int32, mask [tokens] bool) rows. Keeps a file that is there: its name says what is in it."""
    if path.exists():
        return
    _save(path, _tensors(*zip(*rows, strict=True)))


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write rows with what they were worth. Keeps a file that is there."""
    if path.exists():
        return
    found = list(examples)
    tensors = _tensors([each.token_ids for each in found], [each.mask for each in found])
    tensors |= {
        "logprobs": np.concatenate([each.logprobs for each in found]).astype(np.float32),
        "turn_rewards": np.concatenate([each.turn_rewards for each in found]).astype(np.float32),
        "reward": np.array([each.reward for each in found], np.float64),
        "weight": np.array([each.weight for each in found], np.float64),
        "group": np.array([each.group for each in found], np.int64),
        "episode": np.array([each.episode for each in found], np.int64),
    }
    _save(path, tensors)


def read(path: Path) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """(token_ids, mask) of every row, in the dataset's order. Raises ModelError where the file is missing."""
    return _sequences(_load(path))


def read_examples(path: Path) -> list[Example]:
    """Every row, in the dataset's order; a file without rewards holds successes. Raises ModelError where it is missing."""
    tensors = _load(path)
    sequences = _sequences(tensors)
    if "reward" not in tensors:
        return [Example.success(ids, mask, episode=row) for row, (ids, mask) in enumerate(sequences)]
    return [
        Example(
            ids,
            mask,
            logprobs=tensors["logprobs"][first:last],
            turn_rewards=tensors["turn_rewards"][first:last],
            **{name: tensors[name][row].item() for name in ("reward", "weight", "group", "episode")},
        )
        for row, ((ids, mask), first, last) in enumerate(
            zip(sequences, tensors["offsets"][:-1], tensors["offsets"][1:], strict=True)
        )
    ]


def _tensors(token_ids: Sequence[Any], masks: Sequence[Any]) -> dict[str, np.ndarray]:
    return {
        "token_ids": np.concatenate(token_ids).astype(np.int32),
        "mask": np.concatenate(masks).astype(bool),
        "offsets": np.cumsum([0, *map(len, token_ids)]).astype(np.int64),
    }


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def _load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ModelError(f"{path}: the dataset's rows are missing")
    return load_file(path)


def _sequences(tensors: dict[str, np.ndarray]) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    bounds = list(zip(tensors["offsets"][:-1], tensors["offsets"][1:], strict=True))
    return [(tuple(tensors["token_ids"][a:b].tolist()), tuple(tensors["mask"][a:b].tolist())) for a, b in bounds]
