"""A shard cut down to the rows that datasets hold: what was learnt from stays readable, its names stay, the rest goes."""

from __future__ import annotations

from pathlib import Path

from agentloop.store.clock import now
from agentloop.store.database import Database
from agentloop.store.shards import Footer, is_whole, read_columns, read_footer, shard_id, write_table


def thin(database: Database, path: Path, shard: str) -> Path | None:
    """Write the rows of the shard that datasets hold to a shard of their own, and let the database find them there.

    Returns its path; None where no dataset holds any. The file comes first: a kill before the database knows of it leaves a
    file that the next try finds written. Raises ShardError, DiskError.
    """
    rows = database.execute(
        """
        SELECT t.id, t.position FROM trajectories t JOIN shards h ON h.number = t.shard
        WHERE h.id = ? AND t.id IN (SELECT trajectory FROM dataset_rows) ORDER BY t.position
        """,
        [shard],
    )
    if not rows:
        return None
    names = [name for name, _ in rows]
    kept = shard_id(names)
    target = path.with_name(f"{kept}.parquet")
    if not is_whole(target):
        table = read_columns(path).take([position for _, position in rows])
        footer = read_footer(path)
        write_table(target, table, Footer(kept, len(names), footer.campaign, footer.iteration, footer.purpose))
    with database.transaction():
        if not database.execute("SELECT 1 FROM shards WHERE id = ?", [kept]):
            database.execute(
                "INSERT INTO shards SELECT max(number) + 1, ?, ?, 'ingested', NULL, ?, ?, ? FROM shards",
                [kept, database.relative(target), len(names), target.stat().st_size, now()],
            )
        database.execute(
            """
            UPDATE trajectories SET shard = (SELECT number FROM shards WHERE id = $kept), position = places.position
            FROM (SELECT unnest($names) AS id, generate_subscripts($names, 1) - 1 AS position) places
            WHERE trajectories.id = places.id
            """,
            {"kept": kept, "names": names},
        )
    return target
