"""The one DuckDB file: who may open it, and what a person sees when it cannot be opened.

DuckDB lets one process write and, meanwhile, nobody read. So everybody holds the file briefly, under an OS lock
beside it (writers alone, readers together), and a long reader works on a copy that is taken between two writers. Other
programs that have the file open are waited for as well.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from agentloop.errors import DiskError, StoreError
from agentloop.files import atomic, try_lock
from agentloop.roots import writable
from agentloop.store import faults
from agentloop.store.shards import SCHEMA

MIGRATIONS = Path(__file__).parent / "migrations"
NO_SHARDS = ".no-shards.parquet"
"""A file without rows beside the database: what v_tokens reads while no shard is ingested."""
POLL_SECONDS = 0.02
WAIT_SECONDS = 30.0
SNAPSHOT_SECONDS = 10.0
_HELD = re.compile(r"Conflicting lock is held in (.+?) \(PID (\d+)\)")
"""What DuckDB says of another program that has the file open."""
_INTERRUPTED = "Query interrupted"
"""What DuckDB raises, as a RuntimeError, where Ctrl-C ends a statement."""
_FLOCK = "hhqqi"
"""struct flock of Linux: type, whence, start, length, process."""

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
        lock = _lock(path, shared=read_only, wait_seconds=wait_seconds)
        try:
            connection = _open(
                path,
                path,
                read_only=read_only,
                deadline=deadline,
                wait_seconds=wait_seconds,
                memory_limit=memory_limit,
                threads=threads,
            )
        except BaseException:
            _let_go(lock)
            raise
        return cls(path, connection, read_only=read_only, lock=lock)

    @classmethod
    def open_snapshot(cls, path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Database:
        """The present state for a reader that takes its time, while writers go on. Raises StoreError as `open` does.

        Works too where nothing can be written beside the database: the copy then lies in the temporary folder and ends
        with the reader.
        """
        path = Path(path).absolute()
        folder = None
        try:
            if writable(path.parent):
                copy = snapshot(path, wait_seconds=wait_seconds)
            else:
                folder = tempfile.TemporaryDirectory(prefix="agentloop-snapshot-")
                copy = Path(folder.name) / path.name
                with _at_rest(path, wait_seconds) as files:
                    _copy(path, files, copy)
            connection = _open(path, copy, read_only=True)
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
            with _as_store_errors(self.path, self._file):
                self.connection.close()
        finally:
            _let_go(self._lock)
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


class _InUseError(StoreError):
    """Somebody else has the database and does not let go of it."""


def snapshot(path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Path:
    """A copy of the present state, of this code's schema, for readers that take their time while writers go on.

    Where a writer has not let go after `wait_seconds`, it is the newest copy that there is. The copy lies hidden beside
    the database and is shared by all readers of the same state; `Database.open_snapshot` opens it. Copies of older
    states are removed (who has one open keeps it). Raises StoreError as `Database.open` does.
    """
    path = Path(path).absolute()
    schema = max(file.name for file in MIGRATIONS.glob("*.sql")).partition("_")[0]
    try:
        with _at_rest(path, wait_seconds) as files:
            state = "-".join(f"{file.stat().st_mtime_ns}-{file.stat().st_size}" for file in files)
            copy = path.with_name(f".{path.stem}-{schema}-{state}.snapshot")
            if not copy.is_file():
                _copy(path, files, copy)
            os.utime(copy)
    except _InUseError:
        copies = sorted(path.parent.glob(f".{path.stem}-{schema}-*.snapshot"), key=lambda copy: copy.stat().st_mtime)
        if not copies:
            raise
        return copies[-1]
    _remove_superseded(path, copy)
    return copy


@contextmanager
def _at_rest(path: Path, wait_seconds: float) -> Iterator[list[Path]]:
    """The files of the database, the log of a writer that was killed included, while nobody writes to them."""
    deadline = time.monotonic() + wait_seconds
    lock = _lock(path, shared=True, wait_seconds=wait_seconds)
    try:
        try:
            file = open(path, "rb")
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror})") from None
        with file:
            # as DuckDB's own readers do: other programs know nothing of the lock beside the file
            while (holder := _foreign_writer(file.fileno())) is not None:
                if time.monotonic() >= deadline:
                    raise _InUseError(_in_use(path, "another program", holder, wait_seconds))
                time.sleep(POLL_SECONDS)
            yield [each for each in (path, Path(f"{path}.wal")) if each.is_file()]
    finally:
        _let_go(lock)


def _foreign_writer(descriptor: int) -> int | None:
    """The process that has the file open for writing in DuckDB, None where none has; it is kept out from then on."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except (BlockingIOError, PermissionError):
        found = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        return struct.unpack(_FLOCK, found)[-1]
    except OSError:  # no such locks here: no program can have one
        return None


def _copy(path: Path, files: Sequence[Path], copy: Path) -> None:
    temporary = Path(f"{copy}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        for file, suffix in zip(files, ("", ".wal"), strict=False):
            shutil.copyfile(file, f"{temporary}{suffix}")
        # folds the log in, and brings an older schema up to date
        _open(path, temporary, read_only=False).close()
        os.replace(temporary, copy)
    except OSError as error:
        raise DiskError(f"{path}: no copy for reading can be written to {copy.parent} ({error.strerror})") from None
    finally:
        for suffix in ("", ".wal"):
            Path(f"{temporary}{suffix}").unlink(missing_ok=True)


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


def _lock(path: Path, *, shared: bool, wait_seconds: float) -> int | None:
    """Take the lock beside the database; the descriptor holds it until it is closed.

    Who waits for it holds the turn (`<path>.turn`), which everybody takes first: so a process that lets go and asks
    again at once comes after those that wait.
    """
    if path.is_dir():
        raise StoreError(f"{path}: is a folder, not a database")
    if shared and not path.is_file():
        raise StoreError(f"{path}: no database here yet")
    turn, descriptor = None, None
    deadline = time.monotonic() + wait_seconds
    try:
        turn, descriptor = (_lock_file(path, name, shared) for name in ("turn", "lock"))
        for lock, kind in ((turn, fcntl.LOCK_EX), (descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)):
            while lock is not None and not try_lock(lock, kind, path):
                if time.monotonic() >= deadline:
                    owner = (
                        os.pread(descriptor, 32, 0).decode(errors="replace").strip() if descriptor is not None else ""
                    )
                    raise _InUseError(f"{path}: in use by process {owner or 'unknown'} (waited {wait_seconds:g} s)")
                time.sleep(POLL_SECONDS)
        if descriptor is not None:
            with suppress(OSError):  # a reader of somebody else's database cannot write it down
                os.pwrite(descriptor, f"{os.getpid():<16d}\n".encode(), 0)
    except BaseException:
        _let_go(descriptor)
        raise
    finally:
        _let_go(turn)
    return descriptor


def _lock_file(path: Path, name: str, shared: bool) -> int | None:
    """The open lock file; None for a reader where there is none and none can be made: who writes would have made it."""
    file = f"{path}.{name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if not shared or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        try:
            return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.filename}: {error.strerror})") from None


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)  # the flock goes with its descriptor


def _in_use(path: Path, program: str, process: int | str, wait_seconds: float) -> str:
    return f"{path}: in use by {program} (process {process}), which is not agentloop (waited {wait_seconds:g} s)"


def _open(
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
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    with _as_store_errors(path, file):
        while True:
            try:
                connection = duckdb.connect(str(file), read_only=read_only, config=config)
                break
            except duckdb.IOException as error:
                holder = _HELD.search(str(error))
                if holder is None:
                    raise
                if time.monotonic() >= deadline:
                    raise _InUseError(_in_use(path, holder[1], holder[2], wait_seconds)) from None
                time.sleep(POLL_SECONDS)
        try:
            _migrate(connection, path, file, read_only)
            _locate_shards(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _migrate(connection: duckdb.DuckDBPyConnection, path: Path, file: Path, read_only: bool) -> None:
    """Apply the numbered files that the database does not have yet, each in a transaction of its own."""
    files = sorted(MIGRATIONS.glob("*.sql"))
    ((known,),) = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'migrations'").fetchall()
    applied = dict(connection.execute("SELECT name, digest FROM migrations ORDER BY name").fetchall()) if known else {}
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    for name, digest in applied.items():
        if name not in texts:
            raise StoreError(f"{path}: made by a newer version of agentloop (its schema {name} is unknown to this one)")
        if digest != _digest(texts[name]):
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
def _as_store_errors(path: Path, file: Path) -> Iterator[None]:
    """Faults of the file or the disk become errors that name the database; faults of a statement stay as they are."""
    try:
        yield
    except duckdb.Error as error:
        fault = faults.of_a_file(error, path, file)
        if fault is None:
            raise
        raise fault from None
