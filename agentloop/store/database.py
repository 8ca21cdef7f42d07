"""The one DuckDB file: who may open it, and what a person sees when it cannot be opened.

DuckDB lets one process write and, meanwhile, nobody read. So everybody holds the file briefly, under an OS lock
beside it (writers alone, readers together), and a long reader works on a copy that is taken between two writers. Other
programs that have the file open are waited for as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from agentloop.errors import NoSpaceError
from agentloop.roots import writable
from agentloop.store import faults, locks
from agentloop.store.connection import as_store_errors, connect
from agentloop.store.locks import let_go
from agentloop.store.snapshots import WAIT_SECONDS, at_rest, fold, snapshot, take

_INTERRUPTED = "Query interrupted"
"""What DuckDB raises, as a RuntimeError, where Ctrl-C ends a statement."""

Parameters = Sequence[object] | Mapping[str, object] | None


class Database:
    """An open database. Made by `Database.open`, closed by leaving the `with` block."""

    def __init__(
        self,
        path: Path,
        connection: duckdb.DuckDBPyConnection,
        *,
        read_only: bool,
        lock: int | None,
        file: Path | None = None,
        folder: tempfile.TemporaryDirectory | None = None,
    ) -> None:
        self.path = path
        """The database, by which errors name it and below which stored paths lie, also where a copy of it is open."""
        self.connection = connection
        self.read_only = read_only
        self._lock = lock
        self._file = file or path
        self._folder = folder
        self._in_transaction = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        wait_seconds: float = WAIT_SECONDS,
        memory_limit: str = "2GB",
        threads: int = 2,
    ) -> Database:
        """Open the file, creating and migrating it where needed. Hold it briefly: nobody else can write meanwhile.

        Writers take the lock beside the file (`<path>.lock`) alone, readers share it. Raises StoreError, in one line
        that names the file, when another process still holds it after `wait_seconds` (with that process's id), when
        the file is damaged, when its schema is not this code's, and when `read_only` is asked of a file that does not
        exist.
        """
        path = Path(path).absolute()
        deadline = time.monotonic() + wait_seconds
        lock = locks.lock(path, shared=read_only, wait_seconds=wait_seconds)
        try:
            connection = connect(
                path,
                path,
                read_only=read_only,
                deadline=deadline,
                wait_seconds=wait_seconds,
                memory_limit=memory_limit,
                threads=threads,
            )
        except BaseException:
            let_go(lock)
            raise
        return cls(path, connection, read_only=read_only, lock=lock)

    @classmethod
    def in_memory(cls) -> Database:
        """An empty database without a file or tables, for queries about what is at hand."""
        path = Path(":memory:")
        config: dict[str, str | bool | int | float | list[str]] = {"threads": 2, "async_threads": 2}
        return cls(path, duckdb.connect(str(path), config=config), read_only=False, lock=None)

    @classmethod
    def open_snapshot(cls, path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Database:
        """The present state for a reader that takes its time, while writers go on. Raises StoreError as `open` does.

        Works too where nothing can be written beside the database, or its disk is full: the copy then lies in the temporary
        folder and ends with the reader.
        """
        path = Path(path).absolute()
        folder = None
        try:
            copy = None
            if writable(path.parent):
                with suppress(NoSpaceError):
                    copy = snapshot(path, wait_seconds=wait_seconds)
            if copy is None:
                folder = tempfile.TemporaryDirectory(prefix="agentloop-snapshot-")
                copy = Path(folder.name) / path.name
                with at_rest(path, wait_seconds) as files:
                    raw = take(path, files, copy)
                fold(path, raw, copy)
            connection = connect(path, copy, read_only=True)
        except BaseException:
            if folder is not None:
                folder.cleanup()
            raise
        return cls(path, connection, read_only=True, lock=None, file=copy, folder=folder)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write everything to the file and let go of it."""
        try:
            with as_store_errors(self.path, self._file):
                self.connection.close()
        finally:
            let_go(self._lock)
            self._lock = None
            if self._folder is not None:
                self._folder.cleanup()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing. Inside another transaction it joins that one."""
        if self._in_transaction:
            yield
            return
        self.execute("BEGIN TRANSACTION")
        self._in_transaction = True
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.TransactionException):  # a failed COMMIT has rolled back already
                self.connection.execute("ROLLBACK")
            raise
        finally:
            self._in_transaction = False

    def execute(self, sql: str, parameters: Parameters = None) -> list[tuple]:
        """Run one statement and return its rows. Parameters: a sequence for `?`, a mapping for `$name`.

        Raises StoreError, ShardError or DiskError for faults of files, and duckdb.Error for those of the statement.
        """
        with self._telling():
            return self.connection.execute(sql, parameters).fetchall()

    def arrow(self, sql: str, parameters: Parameters = None) -> pa.Table:
        """The result of one query as an Arrow table, without columns where a statement has no result. Raises as `execute`."""
        with self._telling():
            relation = self.connection.sql(sql, params=parameters)
            return pa.table({}) if relation is None else relation.to_arrow_table()

    def said(self, error: duckdb.Error) -> str:
        """Return what is wrong with a statement, on one line that names the database and no copy of it."""
        return faults.said(error, self.path, self._file)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            fault = faults.of_a_file(error, self.path, self._file, self._shards)
            if fault is None:
                raise
            raise fault from None
        except RuntimeError as error:
            if str(error) != _INTERRUPTED:
                raise
            raise KeyboardInterrupt from None

    def _shards(self) -> list[Path]:
        # by another connection: a transaction that has failed answers nothing any more
        stored = self.connection.cursor().execute("SELECT path FROM shards WHERE status = 'ingested'").fetchall()
        return [self.resolve(path) for (path,) in stored]

    def relative(self, path: Path) -> str:
        """The path as it is stored: relative to the database's directory where it lies below it, so data can move."""
        path = Path(path).absolute()
        return str(path.relative_to(self.path.parent)) if path.is_relative_to(self.path.parent) else str(path)

    def resolve(self, stored: str) -> Path:
        """The path that `relative` was given."""
        return self.path.parent / stored
