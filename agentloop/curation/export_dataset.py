"""A dataset as a directory that `datasets.load_dataset` reads: Parquet files by split, and a card that says how it was made.

Beside what export.py writes, a row says what its task was, who acted, and what each verifier said. The same rows are the
same bytes, as long as the same versions of pyarrow and `datasets` write them: nothing in the directory tells when it was made.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentloop.curation import export, export_card
from agentloop.curation.export_card import Made, Split
from agentloop.curation.recipes import Recipe
from agentloop.curation.selection import Selected
from agentloop.errors import ContaminationError, StoreError
from agentloop.files import atomic
from agentloop.store.database import Database

QUERIES = Path(__file__).with_suffix("")

ROWS_A_FILE = 10_000
_ROWS_A_GROUP = 1_000

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCORES = pa.list_(pa.struct([("scorer", pa.string()), ("version", pa.int32()), ("value", pa.float64())]))
_TURNS = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("text", pa.string()),
            ("token_start", pa.int32()),
            ("token_end", pa.int32()),
            ("tool", pa.string()),
            ("arguments", pa.string()),
            ("error", pa.string()),
            ("reward", pa.float64()),
        ]
    )
)
_IDS, _MASK, _LOGPROBS = pa.list_(pa.int32()), pa.list_(pa.bool_()), pa.list_(pa.float32())

_SHARED = [
    ("position", pa.int32()),
    ("task", pa.string()),
    ("environment", pa.string()),
    ("family", pa.string()),
    ("question", pa.string()),
    ("expected", pa.string()),
    ("payload", pa.string()),
    ("policy", pa.string()),
    ("base", pa.string()),
    ("adapter", pa.string()),
    ("prompt_format", pa.string()),
    ("sampling", pa.string()),
]
_OF_AN_EPISODE = [
    ("trajectory", pa.string()),
    ("iteration", pa.int32()),
    ("sample", pa.int32()),
    ("seed", pa.int64()),
    ("status", pa.string()),
    ("answer", pa.string()),
    ("outcome", pa.string()),
    ("success", pa.float64()),
    ("scores", _SCORES),
    ("turns", _TURNS),
]
_OF_A_SIDE = [("ids", _IDS), ("mask", _MASK), ("logprobs", _LOGPROBS), *_OF_AN_EPISODE]

ROWS = pa.schema(
    [*_SHARED, *_OF_AN_EPISODE, ("messages", _MESSAGES), ("token_ids", _IDS), ("mask", _MASK), ("logprobs", _LOGPROBS)]
)
PAIRS = pa.schema(
    [
        *_SHARED,
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("prompt_ids", _IDS),
        *((f"{side}_{name}", kind) for side in ("chosen", "rejected") for name, kind in _OF_A_SIDE),
    ]
)


def write(
    database: Database,
    selected: Selected,
    directory: Path,
    *,
    recipe: Recipe,
    campaign: str,
    iteration: int,
    benchmarks: Path | None = None,
) -> int:
    """Write what was selected of a campaign up to an iteration. Returns the number of rows, or of pairs.

    It is there whole or not at all; a directory that holds the same already stays. Raises StoreError where it holds anything
    else, ContaminationError where a task of the rows is held out, ShardError where a shard cannot be read, DiskError.
    """
    export.check(directory)
    trajectories = selected.dataset.trajectories
    split_of = dict(database.execute(_query("splits"), {"names": list(trajectories)}))
    places: dict[str, list[int]] = {}
    width = 2 if recipe.paired else 1
    for place in range(0, len(trajectories), width):
        places.setdefault(_split(split_of, trajectories[place], database), []).append(place)
    used = {"campaign": campaign, "purpose": recipe.purpose}
    with atomic(directory) as temporary:
        (temporary / "data").mkdir(parents=True)
        splits = []
        for name, of_split in sorted(places.items()):
            files = [of_split[start : start + ROWS_A_FILE] for start in range(0, len(of_split), ROWS_A_FILE)]
            sizes = [
                _write_file(
                    temporary / "data" / f"{name}-{number:05d}-of-{len(files):05d}.parquet",
                    _rows(database, trajectories, of_file, paired=recipe.paired, used=used),
                    PAIRS if recipe.paired else ROWS,
                )
                for number, of_file in enumerate(files)
            ]
            splits.append(Split(name, *map(sum, zip(*sizes, strict=True))))
        made = Made.of(database, selected, recipe, campaign=campaign, iteration=iteration, benchmarks=benchmarks)
        card = export_card.text(made, splits, PAIRS if recipe.paired else ROWS)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if directory.exists() and not _same(temporary, directory):
            raise StoreError(f"{directory}: is there already, with another dataset or one of another version")
    return sum(split.rows for split in splits)


def _split(split_of: dict[str, str], trajectory: str, database: Database) -> str:
    if trajectory not in split_of:
        raise StoreError(f"{database.path}: {trajectory} is not in the database")
    if split_of[trajectory] == "heldout":
        raise ContaminationError(f"{trajectory}: is of a held-out task, which is not exported")
    return split_of[trajectory]


def _write_file(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> tuple[int, int, int]:
    """Rows, bytes in memory, bytes of the file."""
    held = count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, _ROWS_A_GROUP)):
            table = pa.Table.from_pylist(group, schema=schema)
            held, count = held + table.nbytes, count + len(group)
            writer.write_table(table)
    return count, held, path.stat().st_size


def _rows(
    database: Database, trajectories: Sequence[str], places: Sequence[int], *, paired: bool, used: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows that begin at these places of the dataset."""
    width = 2 if paired else 1
    names = [trajectories[place + side] for place in places for side in range(width)]
    parameters: dict[str, Any] = {"names": names, **used}
    found = database.arrow(_query("episodes"), parameters).to_pylist()
    about = {row["trajectory"]: row for row in found}
    if not paired:
        place_of = dict(zip(names, places, strict=True))
        for row in export.rows(database, names, paired=False):
            episode = about[row["trajectory"]]
            yield {"position": place_of[row["trajectory"]]} | episode | row | {"turns": _turns(episode["turns"], row)}
        return
    for place, row in zip(places, export.rows(database, names, paired=True), strict=True):
        position = {"position": place // width}
        for side in ("chosen", "rejected"):
            episode = about[row[f"{side}_trajectory"]]
            row |= {f"{side}_{name}": episode[name] for name, _ in _OF_AN_EPISODE}
        yield position | about[row["chosen_trajectory"]] | row


def _turns(turns: Sequence[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns of a row that holds one conversation of its episode, with their places in that."""
    first, last = row["first"], row["first"] + len(row["token_ids"])
    return [
        turn | {"token_start": turn["token_start"] - first, "token_end": turn["token_end"] - first}
        for turn in turns
        if first <= turn["token_start"] < last
    ]


def _same(one: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    names = [sorted(file.relative_to(each) for file in each.rglob("*") if file.is_file()) for each in (one, other)]
    return names[0] == names[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names[0])


def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
