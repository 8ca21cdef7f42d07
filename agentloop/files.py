"""Files and directories that exist whole or not at all: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentloop import sizes, space
from agentloop.errors import AgentloopError, DiskError, NoSpaceError, lacks_space

_TEMPORARY = re.compile(r"\.(\d+)(-\d+)?\.tmp")
"""In a temporary name: the process that writes it."""

_MARK = ".agentloop"
"""In a temporary name: it is ours, whatever folder it lies in."""

_ABANDONED_SECONDS = 3600.0
"""Outside the data root, whose only user is known: a process that is not seen here may live in another container."""

_swept: set[Path] = set()
"""Directories that this process has looked through."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write a file or a directory to; on leaving, it takes the name `path`.

    A directory that is there already stays (its name says what is in it), a file is replaced. Raises NoSpaceError, naming
    path and free bytes, where the disk is full, DiskError where the system refuses for another reason; nothing half-written
    is left under either name.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        _sweep_beside(path.parent.absolute())
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                _fsync(file)
        if temporary.is_dir() and path.exists():
            _remove(temporary)
        else:
            os.replace(temporary, path)
            _fsync(path.parent)
    except FileExistsError as error:
        raise DiskError(f"{path}: {error.filename} is there and is no folder") from error
    except AgentloopError:
        raise
    except Exception as error:
        if lacks_space(error):
            raise NoSpaceError(
                f"{path}: {os.strerror(errno.ENOSPC)} ({sizes.said(space.free(path))} are free)"
            ) from error
        if isinstance(error, OSError):
            raise DiskError(f"{path}: {error.strerror or error}") from error
        raise
    finally:
        with suppress(OSError):  # what went wrong above is what is told
            _remove(temporary)


def temporary_name(name: str) -> str:
    """Return the hidden name that something of this name has while this process makes it, or removes it."""
    return f".{name}{_MARK}.{os.getpid()}.tmp"


def is_abandoned(name: str) -> bool:
    """Return True for a temporary name whose process is gone. Only for the data root, whose only user is known."""
    written_by = _TEMPORARY.search(name) if name.startswith(".") else None
    return written_by is not None and not Path("/proc", written_by[1]).exists()


def is_locked(file: Path) -> bool:
    """Return True where a living process holds a lock (flock) on the file; False too where there is no such file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_SH, file)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, kind: int, file: Path) -> bool:
    """Take a lock (flock) of this kind; False where somebody else has one that excludes it.

    Raises DiskError, naming the file, on a disk that has no locks.
    """
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        reason = f"this disk has no file locks ({error.strerror}); paths.data and paths.cache need a disk that has them"
        raise DiskError(f"{file}: {reason}") from None
    return True


def sweep(root: Path, *, skip: Path) -> None:
    """Remove what killed processes have left under temporary names below `root`, though not below `skip`."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != skip]
        for name in filter(is_abandoned, folders + files):
            _remove(Path(folder, name))


def _sweep_beside(folder: Path) -> None:
    """Remove from a folder that may be anybody's what killed processes of ours left there an hour ago or earlier."""
    if folder in _swept:
        return
    _swept.add(folder)
    for entry in os.scandir(folder):
        written_by = _TEMPORARY.search(entry.name) if entry.name.startswith(".") and _MARK in entry.name else None
        if written_by is None or Path("/proc", written_by[1]).exists():
            continue
        with suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS:
                _remove(Path(entry.path))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
