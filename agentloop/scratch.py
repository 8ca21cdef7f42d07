"""Temporary folders that only this user can enter, by names that sockets and compilers take, and that nobody leaves behind.

Each is locked by the process that uses it for as long as that lives: what a killed one left is known by its missing lock,
and goes when the next folder is made, or the next run begins.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentloop import caches

PREFIX = f"agentloop-{os.getuid()}-"
_LONGEST = 50
"""A socket's whole path may have 107 characters; vLLM names its sockets by UUIDs, which have 36."""
_REMOVAL_SECONDS = 5.0


def leaves_room(folder: Path) -> bool:
    """Return True where the names of Unix sockets in the folder are not too long."""
    return len(str(folder)) <= _LONGEST


@contextmanager
def directory() -> Iterator[Path]:
    """A folder of mode 0700, gone on leaving."""
    sweep()
    parent = _parent()
    # locked before it has the name by which others would sweep it
    unnamed = Path(tempfile.mkdtemp(prefix=".agentloop-", dir=parent))
    lock = os.open(unnamed, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, where nothing is swept either
            fcntl.flock(lock, fcntl.LOCK_EX)
        path = parent / f"{PREFIX}{unnamed.name.removeprefix('.agentloop-')}"
        unnamed.rename(path)
        try:
            yield path
        finally:
            _remove(path)
    finally:
        os.close(lock)


def _parent() -> Path:
    parent = Path(tempfile.gettempdir()).resolve()
    fits = leaves_room(parent / f"{PREFIX}{'x' * 8}") and not caches.odd_characters(parent)
    return parent if fits else Path("/tmp")


def sweep() -> None:
    """Remove the folders of processes that are gone."""
    for path in abandoned():
        _remove(path)


def abandoned(*parents: Path) -> Iterator[Path]:
    """The folders of processes that are gone, each locked while it is looked at. `parents`: where they may lie besides."""
    for path in (path for parent in dict.fromkeys((_parent(), *parents)) for path in parent.glob(f"{PREFIX}*")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(lock).st_uid != os.getuid():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except OSError:
            pass  # in use
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    """Killed processes may write for a moment longer."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    shutil.rmtree(path, ignore_errors=True)
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(path, ignore_errors=True)
