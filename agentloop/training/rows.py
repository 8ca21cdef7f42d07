"""A dataset's rows on disk, as the trainer reads them: token ids and masks, end to end, in one safetensors file.

The trainer's process opens no database: it is given this file, named by the dataset's content id.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from agentloop.errors import ModelError
from agentloop.files import atomic


def write(path: Path, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write (token_ids [tokens] int32, mask [tokens] bool) rows. Keeps a file that is there: its name says what is in it."""
    if path.exists():
        return
    token_ids, masks = zip(*rows, strict=True)
    offsets = np.cumsum([0, *map(len, token_ids)])
    with atomic(path) as temporary:
        save_file(
            {
                "token_ids": np.concatenate(token_ids).astype(np.int32),
                "mask": np.concatenate(masks).astype(bool),
                "offsets": offsets.astype(np.int64),
            },
            temporary,
        )


def read(path: Path) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """(token_ids, mask) of every row, in the dataset's order."""
    if not path.is_file():
        raise ModelError(f"{path}: the dataset's rows are missing")
    tensors = load_file(path)
    bounds = list(zip(tensors["offsets"][:-1], tensors["offsets"][1:], strict=True))
    return [(tuple(tensors["token_ids"][a:b].tolist()), tuple(tensors["mask"][a:b].tolist())) for a, b in bounds]
