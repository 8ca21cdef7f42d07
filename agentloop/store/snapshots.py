"""Copies of the database for readers that take their time while writers go on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentloop import space
from agentloop.errors import DiskError, NoSpaceError, StoreError, lacks_space
from agentloop.store import schema
from agentloop.store.connection import connect
from agentloop.store.locks import POLL_SECONDS, InUseError, foreign_writer, in_use, let_go, lock

WAIT_SECONDS = 30.0
_ROOM = 1 << 20
"""For a schema that is brought up to date."""
SNAPSHOT_SECONDS = 10.0
"""That a copy is kept for who was told of it and has not opened it yet."""


def snapshot(path: Path, *, wait_seconds: float = WAIT_SECONDS) -> Path:
    """A copy of the present state, of this code's schema, for readers that take their time while writers go on.

    Where a writer has not let go after `wait_seconds`, it is the newest copy that there is. The copy lies hidden beside
    the database and is shared by all readers of the same state; `Database.open_snapshot` opens it. Copies of older
    states are removed (who has one open keeps it). Raises StoreError as `Database.open` does.
    """
    path = Path(path).absolute()
    newest = max(file.name for file in schema.MIGRATIONS.glob("*.sql")).partition("_")[0]
    try:
        with at_rest(path, wait_seconds) as files:
            state = "-".join(f"{file.stat().st_mtime_ns}-{file.stat().st_size}" for file in files)
            copy = path.with_name(f".{path.stem}-{newest}-{state}.snapshot")
            raw = None if copy.is_file() else take(path, files, copy)
        if raw is not None:
            fold(path, raw, copy)
        os.utime(copy)
    except InUseError:
        copies = sorted(path.parent.glob(f".{path.stem}-{newest}-*.snapshot"), key=lambda copy: copy.stat().st_mtime)
        if not copies:
            raise
        return copies[-1]
    _remove_superseded(path, copy)
    return copy


@contextmanager
def at_rest(path: Path, wait_seconds: float) -> Iterator[list[Path]]:
    """The files of the database, the log of a writer that was killed included, while nobody writes to them."""
    deadline = time.monotonic() + wait_seconds
    held = lock(path, shared=True, wait_seconds=wait_seconds)
    try:
        try:
            file = open(path, "rb")
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror})") from None
        with file:
            # as DuckDB's own readers do: other programs know nothing of the lock beside the file
            while (holder := foreign_writer(file.fileno())) is not None:
                if time.monotonic() >= deadline:
                    raise InUseError(in_use(path, "another program", holder, wait_seconds))
                time.sleep(POLL_SECONDS)
            yield [each for each in (path, Path(f"{path}.wal")) if each.is_file()]
    finally:
        let_go(held)


def needed(files: Sequence[Path]) -> int:
    """Bytes that a copy of these files takes at most: the log is folded in, and read anew before the old blocks are free."""
    sizes = [file.stat().st_size for file in files]
    return sum(sizes) + sum(sizes[1:]) + _ROOM


def take(path: Path, files: Sequence[Path], copy: Path) -> Path:
    """Copy the files of the database at rest to beside `copy`, as they are, and return what `fold` makes it of.

    Raises NoSpaceError, DiskError.
    """
    space.require(copy.parent, needed(files))
    raw = Path(f"{copy}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    with _told(path, raw):
        for file, suffix in zip(files, ("", ".wal"), strict=False):
            shutil.copyfile(file, f"{raw}{suffix}")
    return raw


def fold(path: Path, raw: Path, copy: Path) -> None:
    """Make `copy` of what `take` returned: the log folded in, and an older schema brought up to date.

    A writer may go on meanwhile. `path`: the database, for messages. Raises NoSpaceError, DiskError, StoreError.
    """
    with _told(path, raw):
        connect(path, raw, read_only=False).close()
        os.replace(raw, copy)
    _remove(raw)


@contextmanager
def _told(path: Path, raw: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _remove(raw)
        if isinstance(error, OSError):
            kind = NoSpaceError if lacks_space(error) else DiskError
            raise kind(f"{path}: no copy for reading can be written to {raw.parent} ({error.strerror})") from None
        raise


def _remove(raw: Path) -> None:
    for suffix in ("", ".wal"):
        Path(f"{raw}{suffix}").unlink(missing_ok=True)


def _remove_superseded(path: Path, newest: Path) -> None:
    # A copy that was handed out a moment ago may not be open yet. What is open survives its removal.
    for other in path.parent.glob(f".{path.stem}-*.snapshot*"):
        try:
            if not other.name.startswith(newest.name) and time.time() - other.stat().st_mtime > SNAPSHOT_SECONDS:
                other.unlink()
        except FileNotFoundError:  # another reader was faster
            continue
