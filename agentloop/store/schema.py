"""The schema: numbered migrations, each applied once, in order, whole or not at all."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from agentloop.errors import StoreError
from agentloop.files import atomic
from agentloop.store.clock import now
from agentloop.store.shards import SCHEMA

MIGRATIONS = Path(__file__).parent / "migrations"
NO_SHARDS = ".no-shards.parquet"
"""A file without rows beside the database: what v_tokens reads while no shard is ingested."""


def migrate(connection: duckdb.DuckDBPyConnection, path: Path, file: Path, read_only: bool) -> None:
    """Apply the numbered files that the database does not have yet, each in a transaction of its own."""
    texts, digests = _texts(MIGRATIONS)
    ((known,),) = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'migrations'").fetchall()
    applied = dict(connection.execute("SELECT name, digest FROM migrations ORDER BY name").fetchall()) if known else {}
    for name, digest in applied.items():
        if name not in texts:
            raise StoreError(f"{path}: made by a newer version of agentloop (its schema {name} is unknown to this one)")
        if digest != digests[name]:
            raise StoreError(f"{path}: made by another version of agentloop (schema {name} differs)")
    missing = [name for name in texts if name not in applied]
    if missing and read_only:
        raise StoreError(
            f"{path}: has an older schema (without {missing[0]}); `agentloop run`, or any other command that writes, updates it"
        )
    if missing:
        with atomic(file.with_name(NO_SHARDS)) as temporary:
            pq.write_table(SCHEMA.empty_table(), temporary)
        connection.execute("SET VARIABLE shards = [$none]", {"none": str(file.with_name(NO_SHARDS))})
    for name in missing:
        connection.execute("BEGIN TRANSACTION")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY, digest VARCHAR, applied TIMESTAMP)"
        )
        connection.execute(texts[name])
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", [name, digests[name], now()])
        connection.execute("COMMIT")


def locate_shards(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Set the variable `shards`, which v_tokens reads, to the files of all ingested shards."""
    connection.execute(
        """
        SET VARIABLE shards = (
            SELECT coalesce(list(CASE WHEN starts_with(path, '/') THEN path ELSE $root || '/' || path END), [$none])
            FROM shards WHERE status = 'ingested'
        )
        """,
        {"root": str(path.parent), "none": str(path.with_name(NO_SHARDS))},
    )


@cache
def _texts(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The migrations in order and their digests, by name; read once, for a database is opened often."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql"))}
    return texts, {name: _digest(text) for name, text in texts.items()}


def _digest(sql: str) -> str:
    statements = " ".join(line.partition("--")[0] for line in sql.splitlines())  # comments may be corrected
    return hashlib.sha256(" ".join(statements.split()).encode()).hexdigest()[:16]
