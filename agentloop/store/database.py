"""The one DuckDB file: who may open it, and what a person sees when it cannot be opened.

DuckDB lets one process write and, meanwhile, nobody read. So everybody holds the file briefly, under an OS lock
beside it (writers alone, readers together), and a long reader works on a copy that is taken between two writers.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from agentloop.errors import DiskError, StoreError
from agentloop.files import atomic
from agentloop.store import faults
from agentloop.store.shards import SCHEMA

MIGRATIONS = Path(__file__).parent / "migrations"
NO_SHARDS = ".no-shards.parquet"
"""A file without rows beside the database: what v_tokens reads while no shard is ingested."""
POLL_SECONDS = 0.02
SNAPSHOT_SECONDS = 10.0
Parameters = Sequence[object] | Mapping[str, object] | None


class Database:
    """An open database. Made by `Database.open`, closed by leaving the `with` block."""

    def __init__(
        self, path: Path, connection: duckdb.DuckDBPyConnection, *, read_only: bool, lock: int, file: Path
    ) -> None:
        self.path = path
        """What it is called, also where a copy of it is open."""
        self._file = file
        self.connection = connection
        self.read_only = read_only
        self._lock: int | None = lock
        self._in_transaction = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        read_only: bool = False,
        wait_seconds: float = 30.0,
        memory_limit: str = "2GB",
        threads: int = 2,
        copy_of: Path | None = None,
    ) -> Database:
        """Open the file, creating and migrating it where needed. Hold it briefly: nobody else can write meanwhile.

        Writers take the lock beside the file (`<path>.lock`) alone, readers share it. Raises StoreError, in one line
        that names the file, when another process still holds it after `wait_seconds` (with that process's id), when
        the file is damaged, when its schema is not this code's, and when `read_only` is asked of a file that does not
        exist. `copy_of`: the database that the file is a snapshot of, which messages name.
        """
        path = Path(path).absolute()
        lock = _lock(path, shared=read_only, wait_seconds=wait_seconds)
        try:
            connection = _connect(path, read_only=read_only, memory_limit=memory_limit, threads=threads)
            try:
                with _as_store_errors(path):
                    _migrate(connection, path, read_only)
                    _locate_shards(connection, path)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise
        named = path if copy_of is None else Path(copy_of).absolute()
        return cls(named, connection, read_only=read_only, lock=lock, file=path)

    @classmethod
    def open_snapshot(cls, path: Path) -> Database:
        """The present state for a reader that takes its time, while writers go on. Raises StoreError as `open` does."""
        return cls.open(snapshot(path), read_only=True, copy_of=path)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write everything to the file and let go of it."""
        try:
            with _as_store_errors(self.path):
                self.connection.close()
        finally:
            if self._lock is not None:
                os.close(self._lock)  # the flock goes with its descriptor
                self._lock = None

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
        """What is wrong with a statement, on one line that names the database and no copy of it."""
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


def snapshot(path: Path, *, wait_seconds: float = 30.0) -> Path:
    """A copy of the present state for a reader that takes its time, while writers go on.

    Where a writer has not let go after `wait_seconds`, it is the newest copy that there is. Open it with
    `Database.open(copy, read_only=True)`. The copy lies hidden beside the database, so that paths stored in it stay
    right, and is shared by all readers of the same state. Copies of older states are removed (who has one open keeps
    it). Raises StoreError as `Database.open` does.
    """
    path = Path(path).absolute()
    try:
        lock = _lock(path, shared=True, wait_seconds=wait_seconds)
    except StoreError:
        copies = sorted(path.parent.glob(f".{path.stem}-*.snapshot"), key=lambda copy: copy.stat().st_mtime)
        if not copies:
            raise
        return copies[-1]
    try:
        # A log is there where a writer was killed; it belongs to the state.
        files = [file for file in (path, Path(f"{path}.wal")) if file.is_file()]
        state = "-".join(f"{file.stat().st_mtime_ns}-{file.stat().st_size}" for file in files)
        copy = path.with_name(f".{path.stem}-{state}.snapshot")
        if not copy.is_file():
            _copy(files, copy)
        os.utime(copy)
    finally:
        os.close(lock)
    _remove_superseded(path, copy)
    return copy


def _copy(files: Sequence[Path], copy: Path) -> None:
    temporary = Path(f"{copy}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        for file, suffix in zip(files, ("", ".wal"), strict=False):
            shutil.copyfile(file, f"{temporary}{suffix}")
        if len(files) > 1:
            _connect(temporary, read_only=False).close()  # folds the log in
        os.replace(temporary, copy)
    except OSError as error:
        raise DiskError(f"{copy}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _remove_superseded(path: Path, newest: Path) -> None:
    # A copy that was handed out a moment ago may not be open yet. What is open survives its removal.
    for other in path.parent.glob(f".{path.stem}-*.snapshot*"):
        try:
            if not other.name.startswith(newest.name) and time.time() - other.stat().st_mtime > SNAPSHOT_SECONDS:
                other.unlink()
        except FileNotFoundError:  # another reader was faster
            continue


def now() -> datetime:
    """The present in UTC, as the database stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _lock(path: Path, *, shared: bool, wait_seconds: float) -> int:
    """Take the lock beside the database; the descriptor holds it until it is closed.

    Who waits for it holds the turn (`<path>.turn`), which everybody takes first: so a process that lets go and asks
    again at once comes after those that wait.
    """
    if shared and not path.is_file():
        raise StoreError(f"{path}: no database here yet")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        turn, descriptor = (
            os.open(f"{path}.{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) for name in ("turn", "lock")
        )
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror})") from None
    deadline = time.monotonic() + wait_seconds
    try:
        for lock, kind in ((turn, fcntl.LOCK_EX), (descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)):
            while not _locked(lock, kind):
                if time.monotonic() >= deadline:
                    owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise StoreError(f"{path}: in use by process {owner or 'unknown'} (waited {wait_seconds:g} s)")
                time.sleep(POLL_SECONDS)
    finally:
        os.close(turn)
    os.pwrite(descriptor, f"{os.getpid():<16d}\n".encode(), 0)
    return descriptor


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _connect(path: Path, *, read_only: bool, memory_limit: str = "2GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    # Insertion order costs memory in large inserts and nothing here relies on it: every order is asked for. A checkpoint
    # compresses what came since the last one and again the row groups that were not full: rare ones do less. Closing the
    # file makes one in any case.
    config = {
        "checkpoint_threshold": "1GB",
        "memory_limit": memory_limit,
        "threads": threads,
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    with _as_store_errors(path):
        return duckdb.connect(str(path), read_only=read_only, config=config)


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    """Apply the numbered files that the database does not have yet, each in a transaction of its own."""
    files = sorted(MIGRATIONS.glob("*.sql"))
    (known,) = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'migrations'").fetchone()
    applied = dict(connection.execute("SELECT name, digest FROM migrations ORDER BY name").fetchall()) if known else {}
    texts = {file.name: file.read_text() for file in files}
    for name, digest in applied.items():
        if name not in texts:
            raise StoreError(f"{path}: made by a newer version of agentloop (its schema {name} is unknown to this one)")
        if digest != _digest(texts[name]):
            raise StoreError(f"{path}: made by another version of agentloop (schema {name} differs)")
    missing = [name for name in texts if name not in applied]
    if missing and read_only:
        raise StoreError(f"{path}: has an older schema (without {missing[0]}); any command that writes will update it")
    if missing:
        with atomic(path.with_name(NO_SHARDS)) as temporary:
            pq.write_table(SCHEMA.empty_table(), temporary)
        connection.execute("SET VARIABLE shards = [$none]", {"none": str(path.with_name(NO_SHARDS))})
    for name in missing:
        connection.execute("BEGIN TRANSACTION")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name VARCHAR PRIMARY KEY, digest VARCHAR, applied TIMESTAMP)"
        )
        connection.execute(texts[name])
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", [name, _digest(texts[name]), now()])
        connection.execute("COMMIT")


def _digest(sql: str) -> str:
    statements = " ".join(line.partition("--")[0] for line in sql.splitlines())  # comments may be corrected
    return hashlib.sha256(" ".join(statements.split()).encode()).hexdigest()[:16]


def _locate_shards(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
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


@contextmanager
def _as_store_errors(path: Path) -> Iterator[None]:
    """Faults of the file or the disk become errors that name it; faults of a statement stay as they are."""
    try:
        yield
    except duckdb.Error as error:
        fault = faults.of_a_file(error, path, path)
        if fault is None:
            raise
        raise fault from None
