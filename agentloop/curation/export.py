"""A dataset as one file for other trainers: JSON lines or Parquet, with messages and with the tokens as they were.

Preference pairs have `prompt`, `chosen` and `rejected`, other datasets `messages`: lists of {role, content}, which a
trainer puts into its own chat template. Results of tools are the user's, as Gemma knows no third role. An episode in which an
agent of one's own had several conversations has a row for each that is trained on. `…_ids`,
`…_mask` (true where the model produced the token) and `…_logprobs` are what was sampled, for a trainer that takes
tokens. As a directory, with a card: export_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentloop.errors import StoreError
from agentloop.files import atomic
from agentloop.store import datasets
from agentloop.store.database import Database

FORMATS = (".jsonl", ".parquet")
ROLES = {"user": "user", "model": "assistant", "tool": "user", "history": "assistant"}

TURNS = """
    SELECT t.id, t.task, t.policy, any_value(u.token_end) FILTER (u.position = 0) AS opening,
           list({'role': u.role, 'content': u.text, 'start': u.token_start} ORDER BY u.position) AS turns
    FROM trajectories t
    JOIN turns u ON u.trajectory = t.id
    WHERE t.id IN (SELECT unnest($names))
    GROUP BY t.id, t.task, t.policy
"""


def check(path: Path) -> None:
    """Raises StoreError where the name has no known format, or is that of a directory with something else in it."""
    if is_directory(path):
        if path.exists() and not (path / "README.md").is_file():
            raise StoreError(f"{path}: is there already, and is no exported dataset")
    elif path.suffix not in FORMATS:
        raise StoreError(
            f"{path}: a dataset is exported as {' or '.join(FORMATS)}, or as a directory, whose name has no such ending"
        )


def is_directory(path: Path) -> bool:
    """Return True where what is exported under the name is a directory."""
    return not path.suffix


def export(database: Database, trajectories: Sequence[str], path: Path, *, paired: bool) -> int:
    """Write trajectories in their order, or in pairs where they alternate: preferred, not preferred, ….

    Returns the number of rows. Raises StoreError for an unknown format or trajectory, ShardError where a shard cannot
    be read, DiskError where the file cannot be written.
    """
    check(path)
    found = [
        {name: value for name, value in row.items() if name != "first"}
        for row in rows(database, trajectories, paired=paired)
    ]
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(found), temporary, compression="zstd")
        else:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return len(found)


def rows(database: Database, trajectories: Sequence[str], *, paired: bool) -> Iterator[dict[str, Any]]:
    """Yield what `export` writes, row by row, with `first`: the index of its first token among the episode's.

    All tokens are read at once, nine bytes each. Raises StoreError, ShardError.
    """
    episodes = _episodes(database, trajectories, paired=paired)
    return _pairs(episodes) if paired else _messages(episodes)


def _episodes(database: Database, trajectories: Sequence[str], *, paired: bool) -> Iterator[dict[str, Any]]:
    """Each conversation of each episode. Raises StoreError for a pair of episodes with several."""
    about = {row["id"]: row for row in database.arrow(TURNS, {"names": list(trajectories)}).to_pylist()}
    for row in datasets.tokens(database, trajectories):
        episode = about[row.trajectory]
        if paired and len(row.starts) > 1:
            raise StoreError(
                f"{row.trajectory}: has {len(row.starts)} conversations, and pairs are made of one and one"
            )
        for part in row.conversations():
            turns = (
                turn for turn in episode["turns"] if part.first <= turn["start"] < part.first + len(part.token_ids)
            )
            messages = [{"role": ROLES[turn["role"]], "content": turn["content"]} for turn in turns]
            lists = {name: getattr(part, name).tolist() for name in ("token_ids", "mask", "logprobs")}
            yield episode | lists | {"messages": messages, "first": part.first}


def _messages(episodes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for episode in episodes:
        about = {"trajectory": episode["id"], "task": episode["task"], "policy": episode["policy"]}
        yield about | {name: episode[name] for name in ("messages", "token_ids", "mask", "logprobs", "first")}


def _pairs(episodes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    remaining = iter(episodes)
    for chosen, rejected in zip(remaining, remaining, strict=True):
        opening = chosen["opening"]
        row = {
            "task": chosen["task"],
            "policy": chosen["policy"],
            "prompt": chosen["messages"][:1],
            "prompt_ids": chosen["token_ids"][:opening],
        }
        for side, episode in (("chosen", chosen), ("rejected", rejected)):
            row |= {
                side: episode["messages"][1:],
                f"{side}_ids": episode["token_ids"][opening:],
                f"{side}_mask": episode["mask"][opening:],
                f"{side}_logprobs": episode["logprobs"][opening:],
                f"{side}_trajectory": episode["id"],
            }
        yield row
