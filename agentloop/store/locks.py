"""Locks beside the database: writers alone, readers together, and other programs that have the file open."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

from agentloop.errors import StoreError
from agentloop.files import try_lock

POLL_SECONDS = 0.02
_FLOCK = "hhqqi"
"""struct flock of Linux: type, whence, start, length, process."""


class InUseError(StoreError):
    """Somebody else has the database and does not let go of it."""


def lock(path: Path, *, shared: bool, wait_seconds: float) -> int | None:
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
        for held, kind in ((turn, fcntl.LOCK_EX), (descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)):
            while held is not None and not try_lock(held, kind, path):
                if time.monotonic() >= deadline:
                    owner = (
                        os.pread(descriptor, 32, 0).decode(errors="replace").strip() if descriptor is not None else ""
                    )
                    raise InUseError(f"{path}: in use by process {owner or 'unknown'} (waited {wait_seconds:g} s)")
                time.sleep(POLL_SECONDS)
        if descriptor is not None:
            with suppress(OSError):  # a reader of somebody else's database cannot write it down
                os.pwrite(descriptor, f"{os.getpid():<16d}\n".encode(), 0)
    except BaseException:
        let_go(descriptor)
        raise
    finally:
        let_go(turn)
    return descriptor


def somebody_waits(path: Path) -> bool:
    """Return True where somebody, in this process or another, waits for the lock or is about to take it."""
    turn = _lock_file(path, "turn", shared=True)
    if turn is None:
        return False
    try:
        return not try_lock(turn, fcntl.LOCK_EX, path)
    finally:
        os.close(turn)


def let_go(lock: int | None) -> None:
    """Let go of what `lock` has returned."""
    if lock is not None:
        os.close(lock)  # the flock goes with its descriptor


def in_use(path: Path, program: str, process: int | str, wait_seconds: float) -> str:
    """Return the line that names a program which has the file open."""
    return f"{path}: in use by {program} (process {process}), which is not agentloop (waited {wait_seconds:g} s)"


def foreign_writer(descriptor: int) -> int | None:
    """The process that has the file open for writing in DuckDB, None where none has; it is kept out from then on."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except (BlockingIOError, PermissionError):
        found = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        return struct.unpack(_FLOCK, found)[-1]
    except OSError:  # no such locks here: no program can have one
        return None


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
