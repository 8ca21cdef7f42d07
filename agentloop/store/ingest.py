"""From shards into the database: each shard once, each trajectory once, a damaged shard set aside.

Shards go in by batches, each in one transaction, so that memory is bounded and a killed ingest has done whole batches.
The token ids stay in the files.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from agentloop.errors import ShardError, StoreError
from agentloop.store import pruned
from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.shards import Footer, Purpose, read_columns, read_footer

QUERIES = Path(__file__).parent / "ingest"

BATCH_ROWS = 125_000
"""Rows of one transaction. Of 6 turns they make six row groups of the table `turns`: whole ones go to the file at once,
compressed by all threads, while fewer rows would wait in the log and be written twice. Takes about 1.5 GB of memory."""

BATCH_BYTES = 2**30
"""Of the files of one transaction, for shards of long episodes."""


@dataclass(frozen=True)
class IngestReport:
    shards: int
    """Shards that were new."""
    known: int
    """Shards that had been ingested before."""
    damaged: tuple[str, ...]
    """Files set aside, now or by an earlier ingest: renamed to `*.damaged`; the table `shards` has the reason."""
    trajectories: int
    """Trajectories that were new."""
    duplicates: int
    """Trajectories in new shards that the database already had: the first one stays."""
    failed: int = 0
    """Episodes in new shards that never finished: the table failed_episodes has them, and no score."""
    unsampled: int = 0
    """Episodes in new shards that were not begun, as their task was given up: the table unsampled_episodes has them."""


@dataclass(frozen=True)
class Incoming:
    """A shard that is not ingested yet for this use."""

    path: Path
    footer: Footer
    use: tuple[str, int, str]
    """Campaign, iteration and purpose."""
    number: int | None
    """In the table `shards`, where it was ingested for another use."""


def ingest(
    database: Database,
    shards: Iterable[Path],
    *,
    campaign: str | None = None,
    iteration: int | None = None,
    purpose: Purpose | None = None,
) -> IngestReport:
    """Take shards into the database, in bounded memory. Any subset, any order, any number of times: the same end state.

    The trajectories are counted to the campaign, iteration and purpose given here, by default to those in the shard: a
    shard is named by its trajectories alone, so another campaign may have written it first. A shard that cannot be read
    is set aside and the others go on; one that was pruned has been taken already, unless it is wanted for something else.
    Raises StoreError naming the file where one does not exist.
    """
    known, counts = 0, [(0, 0, 0, 0, 0)]
    gone = pruned.shards(database)
    damaged: list[str] = []
    batch: dict[str, Incoming] = {}
    rows = size = 0

    def take() -> None:
        nonlocal rows, size
        for part in _readable(database, list(batch.values()), damaged):
            counts.append(_take(database, part))
        batch.clear()
        rows = size = 0

    for path in map(Path, shards):
        if (
            path.stem in gone
            and not path.exists()
            and path.stem in taken(database, [path.stem], campaign, iteration, purpose)
        ):
            known += 1
            continue
        try:
            footer = read_footer(path)
        except ShardError as error:
            damaged.append(_set_aside(database, path, str(error)))
            continue
        use = (
            campaign or footer.campaign,
            footer.iteration if iteration is None else iteration,
            purpose or footer.purpose,
        )
        if footer.shard in batch:  # a second copy of the same shard
            take()
        number = _number(database, path, footer.shard)
        known += number is not None
        if number is not None and _has_use(database, number, use):
            continue
        batch[footer.shard] = Incoming(path, footer, use, number)
        rows, size = rows + footer.rows, size + path.stat().st_size
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            take()
    take()
    new, fresh, duplicates, failed, unsampled = (sum(column) for column in zip(*counts, strict=True))
    return IngestReport(new, known, tuple(damaged), fresh, duplicates, failed, unsampled)


def _readable(database: Database, batch: list[Incoming], damaged: list[str]) -> Iterator[list[Incoming]]:
    """The batch with its rows in the table `incoming`; shard by shard where one of several cannot be read."""
    if not batch:
        return
    try:
        _read(database, batch)
    except duckdb.Error:
        if len(batch) > 1:
            for shard in batch:
                yield from _readable(database, [shard], damaged)
            return
        try:
            read_columns(batch[0].path)
        except ShardError as error:
            damaged.append(_set_aside(database, batch[0].path, str(error)))
            return
        raise  # the file is good: not its fault
    yield batch


def _read(database: Database, batch: list[Incoming]) -> None:
    (first,) = database.execute("SELECT coalesce(max(number), 0) + 1 FROM shards")[0]
    numbers = itertools.count(first)
    files = pa.table(
        {
            "path": [str(shard.path) for shard in batch],
            "number": pa.array(
                [next(numbers) if shard.number is None else shard.number for shard in batch], pa.int32()
            ),
            "new": [shard.number is None for shard in batch],
            "id": [shard.footer.shard for shard in batch],
            "stored": [database.relative(shard.path) for shard in batch],
            "trajectories": pa.array([shard.footer.rows for shard in batch], pa.int32()),
            "bytes": [shard.path.stat().st_size for shard in batch],
        }
    )
    database.connection.register("batch", files)
    database.connection.execute(_query("incoming"), {"paths": files["path"].to_pylist()})


def _take(database: Database, batch: list[Incoming]) -> tuple[int, int, int, int, int]:
    """The batch in the table `incoming` into the others: (new shards, new trajectories, and in new shards duplicates, failed
    episodes and those that were not sampled)."""
    numbers = dict(database.execute("SELECT path, number FROM batch"))
    new = [shard for shard in batch if shard.number is None]
    with database.transaction():
        database.execute(
            "INSERT INTO shards SELECT number, id, stored, 'ingested', NULL, trajectories, bytes, $now "
            "FROM batch WHERE new ORDER BY number",
            {"now": now()},
        )
        for name in ("tasks", "heldout", "trajectories", "attempts", "failed", "unsampled"):
            database.execute(_query(name))
        database.execute(_query("turns"), {"paths": list(numbers)})
        for use, shards in itertools.groupby(sorted(batch, key=lambda shard: shard.use), key=lambda shard: shard.use):
            _count_to(database, use, [numbers[str(shard.path)] for shard in shards])
        fresh, failed, unsampled = database.execute(
            "SELECT count(*) FILTER (fresh), count(*) FILTER (b.new AND status = 'failed'), "
            "count(*) FILTER (b.new AND status = 'not_sampled') FROM incoming JOIN batch b ON b.number = shard"
        )[0]
        database.execute("DROP TABLE incoming")
    database.connection.unregister("batch")
    known = sum(shard.footer.rows for shard in new) - fresh - failed - unsampled
    return len(new), fresh, known, failed, unsampled


def _count_to(database: Database, use: tuple[str, int, str], numbers: list[int]) -> None:
    campaign, iteration, purpose = use
    where = {"campaign": campaign, "iteration": iteration, "purpose": purpose, "shards": numbers}
    database.execute(_query("collected"), where)
    database.execute("INSERT INTO shard_uses SELECT unnest($shards), $campaign, $iteration, $purpose", where)


def _number(database: Database, path: Path, shard: str) -> int | None:
    """Of a shard that was ingested. Where its file has moved, or was written again, the database follows."""
    rows = database.execute("SELECT number, path, bytes FROM shards WHERE id = ? AND status <> 'damaged'", [shard])
    if not rows:
        return None
    number, stored, size = rows[0]
    pruned.clear_shard(database, shard)  # it was collected again
    here = database.relative(path)
    # collected again, it has other times in it, and so another size
    if (here == stored and _size(path) != size) or not database.resolve(stored).is_file():
        database.execute("UPDATE shards SET path = ?, bytes = ? WHERE number = ?", [here, _size(path), number])
    return number


def taken(
    database: Database, shards: Sequence[str], campaign: str | None, iteration: int | None, purpose: Purpose | None
) -> set[str]:
    """Return those of the shards (ids) that were taken in for this use."""
    rows = database.execute(
        """
        SELECT DISTINCT h.id FROM shards h JOIN shard_uses u ON u.shard = h.number
        WHERE h.id IN (SELECT unnest($shards)) AND u.campaign = $campaign AND u.iteration = $iteration
          AND u.purpose = $purpose
        """,
        {"shards": list(shards), "campaign": campaign, "iteration": iteration, "purpose": purpose},
    )
    return {name for (name,) in rows}


def damaged(database: Database, campaign: str) -> list[int]:
    """Return the iterations of the campaign of which a shard that was taken in is gone or has another size now, in order."""
    rows = database.execute(
        """
        SELECT DISTINCT u.iteration, h.path, h.bytes FROM shards h JOIN shard_uses u ON u.shard = h.number
        WHERE u.campaign = ? AND h.status = 'ingested' ORDER BY u.iteration
        """,
        [campaign],
    )
    return list(dict.fromkeys(iteration for iteration, path, size in rows if _size(database.resolve(path)) != size))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _has_use(database: Database, number: int, use: tuple[str, int, str]) -> bool:
    return bool(
        database.execute(
            "SELECT 1 FROM shard_uses WHERE shard = ? AND campaign = ? AND iteration = ? AND purpose = ?",
            [number, *use],
        )
    )


def _set_aside(database: Database, path: Path, reason: str) -> str:
    """Record a damaged shard and rename it; the record comes first, so that a kill between the two loses nothing."""
    stored = database.relative(path)
    recorded = database.execute("SELECT 1 FROM shards WHERE path = ? AND status = 'damaged'", [stored])
    if not path.is_file():
        if recorded:
            return str(path)
        raise StoreError(f"{path}: no such shard")
    database.execute(
        "INSERT INTO shards SELECT coalesce(max(number), 0) + 1, NULL, ?, 'damaged', ?, NULL, ?, ? FROM shards",
        [stored, reason, path.stat().st_size, now()],
    )
    aside = (path.with_name(f"{path.name}{'' if count == 1 else f'.{count}'}.damaged") for count in itertools.count(1))
    os.replace(path, next(name for name in aside if not name.exists()))
    return str(path)


def _query(name: str) -> str:
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
