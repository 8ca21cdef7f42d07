"""The trajectories that a page holds: a bounded sample, chosen by a fixed rule, with the tokens from the shards.

First the flips, both sides of each; then failures and successes in equal parts, spread over iterations and purposes.
The same database gives the same sample.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentloop.report import query
from agentloop.store.database import Database
from agentloop.store.shards import read_columns

MOST_TRAJECTORIES = 400
MOST_FLIPS = 100
"""Each brings two trajectories."""
MOST_TOKENS = 400_000
"""Of all embedded trajectories together: about 6 MB of page."""


@dataclass(frozen=True)
class Sample:
    trajectories: list[dict[str, Any]]
    """JSON values, see `_embedded`."""
    flips: list[dict[str, Any]]
    """iteration, task, question, sample, flip (gained, lost), champion, challenger (ids that are embedded)"""
    vocabulary: dict[int, str]
    """Text of every token id in them; empty without a tokenizer."""
    total: int
    """Trajectories of the campaign."""


def draw(
    database: Database,
    campaign: str,
    shards_root: Path,
    decode: Callable[[int], str] | None = None,
    most: int = MOST_TRAJECTORIES,
) -> Sample:
    """The sample of a campaign. `shards_root`: where shards are looked for that no longer lie where they were ingested.

    A trajectory whose shard is in neither place is embedded without its tokens. Raises ShardError where one is damaged.
    """
    flips = query.rows(database, "flips", campaign=campaign, limit=min(MOST_FLIPS, most // 4))
    drawn = query.rows(database, "drawn", campaign=campaign, limit=most)
    sides = [flip[side] for flip in flips for side in ("champion", "challenger")]
    chosen = list(dict.fromkeys(sides + _alternating(drawn)))[:most]
    found = {row["id"]: row for row in query.rows(database, "trajectories", campaign=campaign, ids=chosen)}
    kept = _within(found[name] for name in chosen)
    tokens = _tokens(database, kept, shards_root)
    actors = {
        row["adapter"]: "control" if row["role"] == "control" else f"adapter of iteration {row['iteration']}"
        for row in query.rows(database, "candidates", campaign=campaign)
    }
    names = {row["id"] for row in kept}
    used = {token for ids, _, _ in tokens.values() for token in ids} if decode else set()
    return Sample(
        [_embedded(row, actors, tokens.get(row["id"])) for row in sorted(kept, key=_reading_order)],
        [flip for flip in flips if {flip["champion"], flip["challenger"]} <= names],
        {token: decode(token) for token in sorted(used)},
        drawn[0]["total"] if drawn else 0,
    )


def _alternating(drawn: list[dict[str, Any]]) -> list[str]:
    """Failure, success, failure, …, and what one kind has more of at the end."""
    places: dict[bool, int] = defaultdict(int)
    order = []
    for row in drawn:
        order.append((places[row["solved"]], row["solved"], row["trajectory"]))
        places[row["solved"]] += 1
    return [name for _, _, name in sorted(order)]


def _within(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of them that together have at most MOST_TOKENS."""
    kept, total = [], 0
    for row in rows:
        total += row["tokens"]
        if total > MOST_TOKENS:
            break
        kept.append(row)
    return kept


def _tokens(database: Database, rows: list[dict[str, Any]], shards_root: Path) -> dict[str, tuple[list, list, list]]:
    """Token ids, mask and logprobs by trajectory; each shard is read once."""
    by_shard: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_shard[row["shard"]].append(row)
    tokens = {}
    for stored, wanted in by_shard.items():
        places = (database.resolve(stored), shards_root / Path(stored).name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:  # pruned, or lost
            continue
        columns = read_columns(path, ["token_ids", "mask", "logprobs"]).take([row["position"] for row in wanted])
        for row, values in zip(wanted, columns.to_pylist(), strict=True):
            tokens[row["id"]] = (values["token_ids"], values["mask"], values["logprobs"])
    return tokens


def _embedded(
    row: dict[str, Any], actors: dict[str | None, str], tokens: tuple[list, list, list] | None
) -> dict[str, Any]:
    """As the page's script reads it. mask: one character a token; logprobs: of its 1s alone, in 1/1000 nats."""
    names = (
        "id",
        "iteration",
        "purpose",
        "task",
        "family",
        "question",
        "expected",
        "sample",
        "status",
        "answer",
        "tokens",
        "tool_errors",
        "attempts",
        "turns",
    )
    embedded = {name: row[name] for name in names} | {
        "actor": row["actor"] or actors.get(row["adapter"], row["adapter"] or "base model"),
        "solved": row["success"] >= 0.5,
        "success": row["success"],
        "seconds": round(row["seconds"], 2),
        "trained": row["trained"] or [],
    }
    if tokens is None:
        return embedded
    ids, mask, logprobs = tokens
    return embedded | {
        "ids": ids,
        "mask": "".join("1" if own else "0" for own in mask),
        "logprobs": [round(1000 * value) for value, own in zip(logprobs, mask, strict=True) if own],
    }


def _reading_order(row: dict[str, Any]) -> tuple:
    return row["iteration"], row["purpose"], row["family"], row["task"], row["sample"], row["id"]
