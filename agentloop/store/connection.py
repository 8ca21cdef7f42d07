"""A connection to the file, with this code's schema; who else has it open is waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from agentloop.store import faults
from agentloop.store.locks import POLL_SECONDS, InUseError, in_use
from agentloop.store.schema import locate_shards, migrate

_HELD = re.compile(r"Conflicting lock is held in (.+?) \(PID (\d+)\)")
"""What DuckDB says of another program that has the file open."""


def connect(
    path: Path,
    file: Path,
    *,
    read_only: bool,
    deadline: float = 0.0,
    wait_seconds: float = 0.0,
    memory_limit: str = "2GB",
    threads: int = 2,
) -> duckdb.DuckDBPyConnection:
    """Open `file`, which is the database `path` or a copy of it, with this code's schema."""
    # Insertion order costs memory in large inserts and nothing here relies on it: every order is asked for. A checkpoint
    # compresses what came since the last one and again the row groups that were not full: rare ones do less. Closing the
    # file makes one in any case.
    config: dict[str, str | bool | int | float | list[str]] = {
        "checkpoint_threshold": "1GB",
        "memory_limit": memory_limit,
        "threads": threads,
        "async_threads": threads,  # else four for each of the machine's cores
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    with as_store_errors(path, file):
        while True:
            try:
                connection = duckdb.connect(str(file), read_only=read_only, config=config)
                break
            except duckdb.IOException as error:
                holder = _HELD.search(str(error))
                if holder is None:
                    raise
                if time.monotonic() >= deadline:
                    raise InUseError(in_use(path, holder[1], holder[2], wait_seconds)) from None
                time.sleep(POLL_SECONDS)
        try:
            migrate(connection, path, file, read_only)
            locate_shards(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def as_store_errors(path: Path, file: Path) -> Iterator[None]:
    """Faults of the file or the disk become errors that name the database; faults of a statement stay as they are."""
    try:
        yield
    except duckdb.Error as error:
        fault = faults.of_a_file(error, path, file)
        if fault is None:
            raise
        raise fault from None
