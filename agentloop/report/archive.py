"""All trajectories of a campaign, packed so that a page can hold tens of thousands and opens at once.

The index has a few bytes of each trajectory, for the list and its filters, and is unpacked when the page opens. What was
said and the tokens lie in chunks, one for each shard, and a chunk is unpacked when something in it is looked at or
searched. Both are JSON, gzipped, in base64. A chunk never changes, so it is kept in the cache: while a run is at work, only
new shards are packed.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentloop.errors import DiskError
from agentloop.files import atomic
from agentloop.report import query
from agentloop.store.database import Database
from agentloop.store.shards import read_columns

FORMAT = 2
"""Of a chunk; a kept one of another format is packed again."""
_LAST = 2**31 - 1
"""No iteration has a higher number."""
LEVEL = 6
"""Of gzip: 9 takes twice as long for 1 % less."""
_OWN = ("id", "iteration", "sample", "answer", "success", "tokens", "tool_errors", "attempts")
"""Columns of the index that hold the values themselves; in the others values are numbered."""


@dataclass(frozen=True)
class Archive:
    index: str
    """Packed JSON, see `_index`."""
    chunks: list[str]
    """Packed JSON: `[{turns, outcome, ids, mask, logprobs}, …]`, in the order of the shard; with `starts` where an episode has
    several conversations."""
    shown: int
    total: int
    """Trajectories of the campaign; more than `shown` where only so many bytes, or some iterations, were asked for."""


@dataclass(frozen=True)
class _Chunk:
    packed: str
    used: list[int]
    """Token ids that occur."""


def pack(
    database: Database,
    campaign: str,
    shards_root: Path,
    decode: Callable[[int], str] | None = None,
    *,
    cache: Path | None = None,
    most_bytes: int | None = None,
    iterations: range | None = None,
) -> Archive:
    """Pack the trajectories of a campaign, or of some of its `iterations`; with `most_bytes` those of the newest shards that
    fit in, at least one shard.

    `shards_root`: where shards are looked for that no longer lie where they were ingested. A trajectory whose shard is in
    neither place is packed without its tokens. `decode` gives the text of a token id; without it the viewer shows ids.
    Raises ShardError where a shard is damaged.
    """
    [(total,)] = database.execute(
        "SELECT count(DISTINCT c.trajectory) FROM collected c JOIN trajectories t ON t.id = c.trajectory WHERE c.campaign = ?",
        [campaign],
    )
    first, last = (iterations[0], iterations[-1]) if iterations else (0, _LAST)
    chunks: dict[int, _Chunk] = {}
    size = 0
    for shard in query.rows(database, "shards", campaign=campaign, first=first, last=last):
        chunk = _chunk(database, shard, shards_root, cache)
        size += len(chunk.packed)
        if chunks and most_bytes is not None and size > most_bytes:
            break
        chunks[shard["number"]] = chunk
    used = sorted({token for chunk in chunks.values() for token in chunk.used}) if decode else []
    index = _index(database, campaign, list(chunks))
    index["vocabulary"] = {token: decode(token) for token in used} if decode else {}
    shown = len(index["rows"]["id"])
    return Archive(_packed(index), [chunk.packed for chunk in chunks.values()], shown, total)


def _index(database: Database, campaign: str, shards: list[int]) -> dict[str, Any]:
    """Columns of values, and of numbers into lists of names; tasks and flips beside them."""
    rows, tasks, flips = (
        query.rows(database, name, campaign=campaign, shards=shards) for name in ("trajectories", "asked", "flips")
    )
    actors = {
        row["adapter"]: "control" if row["role"] == "control" else f"adapter of iteration {row['iteration']}"
        for row in query.rows(database, "candidates", campaign=campaign)
    }
    places = {task["id"]: place for place, task in enumerate(tasks)}
    chunk = {number: place for place, number in enumerate(shards)}
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in _OWN}
    columns["task"] = [places[row["task"]] for row in rows]
    columns["seconds"] = [round(row["seconds"], 2) for row in rows]
    columns["trained"] = [row["trained"] or 0 for row in rows]
    columns["chunk"] = [chunk[row["shard"]] for row in rows]
    columns["place"] = [row["position"] for row in rows]
    names: dict[str, list[str]] = {}
    for column, values in (
        ("purpose", [row["purpose"] for row in rows]),
        ("status", [row["status"] for row in rows]),
        ("actor", [row["actor"] or actors.get(row["adapter"], row["adapter"] or "base model") for row in rows]),
    ):
        names[column] = list(dict.fromkeys(values))
        numbers = {name: number for number, name in enumerate(names[column])}
        columns[column] = [numbers[value] for value in values]
    return {"rows": columns, "names": names, "tasks": tasks, "flips": flips}


def _chunk(database: Database, shard: dict[str, Any], shards_root: Path, cache: Path | None) -> _Chunk:
    """What was said in a shard and its tokens, from the cache where it is there."""
    places = (database.resolve(shard["path"]), shards_root / Path(shard["path"]).name)
    path = next((place for place in places if place.is_file()), None)
    kept = cache / f"{shard['id']}-{FORMAT}{'' if path else '-text'}.chunk" if cache else None
    if kept is not None and kept.is_file():
        used, _, packed = kept.read_text(encoding="ascii").partition("\n")
        return _Chunk(packed, json.loads(used))
    chunk = _made(query.rows(database, "said", shard=shard["number"]), path)
    if kept is not None:
        with suppress(DiskError), atomic(kept) as temporary:  # it can be made again
            temporary.write_text(f"{json.dumps(chunk.used)}\n{chunk.packed}", encoding="ascii")
    return chunk


def _made(said: Sequence[dict[str, Any]], path: Path | None) -> _Chunk:
    tokens = list(_tokens(path)) if path else []
    last = max((row["position"] for row in said), default=-1)
    episodes: list[dict[str, Any]] = [{"turns": []} for _ in range(max(len(tokens), last + 1))]
    for row in said:
        episodes[row["position"]]["turns"] = [_spoken(turn) for turn in row["turns"]]
        if row["outcome"] is not None:
            episodes[row["position"]]["outcome"] = row["outcome"]
        if len(row["starts"]) > 1:
            episodes[row["position"]]["starts"] = row["starts"]
    used: set[int] = set()
    for episode, (ids, own, logprobs) in zip(episodes, tokens, strict=False):
        episode["ids"] = ids.tolist()
        # one character a token; log probabilities of its 1s alone, in 1/1000 nats
        episode["mask"] = np.where(own, b"1", b"0").tobytes().decode("ascii")
        episode["logprobs"] = np.rint(1000 * logprobs[own]).astype(np.int64).tolist()
        used.update(episode["ids"])
    return _Chunk(_packed(episodes), sorted(used))


def _spoken(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn without a reward that it has not."""
    return {name: value for name, value in turn.items() if name != "reward" or value is not None}


def _tokens(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token ids, mask and log probabilities of each trajectory of a shard."""
    columns = read_columns(path, ["token_ids", "mask", "logprobs"])
    for row in zip(*(columns[name] for name in columns.column_names), strict=True):
        ids, own, logprobs = (each.values.to_numpy(zero_copy_only=False) for each in row)
        yield ids, own, logprobs


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), LEVEL, mtime=0)).decode("ascii")
