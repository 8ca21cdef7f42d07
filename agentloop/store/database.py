"""The one DuckDB file: who may open it, and what a person sees when it cannot be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa


class Database:
    """An open database. Made by `Database.open`, closed by leaving the `with` block."""

    path: Path
    read_only: bool
    connection: duckdb.DuckDBPyConnection

    @classmethod
    def open(
        cls, path: Path, *, read_only: bool = False, wait_seconds: float = 30.0, memory_limit: str = "2GB", threads: int = 2
    ) -> Database:
        """Open the file, creating and migrating it where needed. Hold it briefly: nobody else can write meanwhile.

        Writers take the lock beside the file (`<path>.lock`) alone, readers share it. Raises StoreError, in one line that
        names the file, when another process still holds it after `wait_seconds` (with that process's id), when the file is
        damaged, when its schema is newer than this code, and when `read_only` is asked of a file that does not exist.
        """
        raise NotImplementedError

    def __enter__(self) -> Database:
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        raise NotImplementedError

    def transaction(self) -> Any:
        """Context manager: all of it or nothing. Inside another transaction it joins that one."""
        raise NotImplementedError

    def execute(self, sql: str, parameters: Any = None) -> list[tuple]:
        """Run one statement and return its rows. Parameters: a sequence for `?`, a mapping for `$name`."""
        raise NotImplementedError

    def arrow(self, sql: str, parameters: Any = None) -> pa.Table:
        """The result as an Arrow table."""
        raise NotImplementedError


def snapshot(path: Path, *, wait_seconds: float = 30.0) -> Path:
    """A private copy of the database for a long reader (a person's query, a report, a notebook); the writer goes on.

    The copy lies beside the database in `snapshots/` and is shared by readers of the same state; older ones that nobody
    has open are removed. Open it with `Database.open(copy, read_only=True)`. Raises StoreError as `Database.open` does.
    """
    raise NotImplementedError
