"""What lies in a folder, measured and removed without following any link.

Every step below a root is taken by the folder's descriptor, so that nothing leads out of it, whatever is put there
meanwhile; what is a link, another user's or of another disk is nobody's to remove.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentloop.files import temporary_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512
"""Bytes that `st_blocks` counts in."""


@dataclass(frozen=True)
class Entry:
    """A file, or a folder with all that is in it."""

    root: Path
    """May itself be a link: where it leads was somebody's choice."""
    within: tuple[str, ...]
    """Names of the folders between root and entry."""
    name: str
    bytes: int
    """Of the disk, as allocated."""
    files: int
    modified: float
    """Newest of it, in seconds since 1970."""
    used: float
    """When anything of it was last read or written; to a day, as Linux notes it (relatime)."""
    identity: frozenset[tuple[int, int]]
    """Device and inode of each of its files, its own first of all."""
    folder: bool
    ours: bool
    """False for a link, for what belongs to another user, and for what reaches into another disk."""

    @property
    def path(self) -> Path:
        return self.root.joinpath(*self.within, self.name)


def entries(root: Path, *within: str) -> list[Entry]:
    """Everything in the folder, by name; nothing where it is missing, or a link leads to it from the root."""
    with _opened(root, within) as folder:
        if folder is None:
            return []
        found = []
        for name in sorted(os.listdir(folder)):
            with suppress(FileNotFoundError):  # it has just gone
                found.append(_measured(root, within, name, folder))
        return found


def total(root: Path, *within: str) -> int:
    """Bytes of everything in the folder."""
    return sum(entry.bytes for entry in entries(root, *within))


def remove(entry: Entry) -> bool:
    """Remove it, a folder whole or not at all: its name goes first. False where it has gone, or is another one by now."""
    with _opened(entry.root, entry.within) as folder:
        if folder is None or not entry.ours:
            return False
        try:
            found = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            if (found.st_dev, found.st_ino) not in entry.identity or stat.S_ISLNK(found.st_mode):
                return False
            if not entry.folder:
                os.unlink(entry.name, dir_fd=folder)
                return True
            hidden = temporary_name(entry.name)
            os.rename(entry.name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            return False
        shutil.rmtree(hidden, dir_fd=folder)
        return True


@contextmanager
def opened_file(entry: Entry) -> Iterator[int | None]:
    """A descriptor of the entry's file, to read and write; None where it has gone, or is another one by now."""
    with _opened(entry.root, entry.within) as folder:
        if folder is None:
            yield None
            return
        try:
            descriptor = os.open(entry.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            yield None
            return
        try:
            found = os.fstat(descriptor)
            yield descriptor if (found.st_dev, found.st_ino) in entry.identity else None
        finally:
            os.close(descriptor)


def in_use() -> frozenset[tuple[int, int]]:
    """Device and inode of every file that a process has open, or mapped, as far as this user may know."""
    found: set[tuple[int, int]] = set()
    for process in os.listdir("/proc"):
        if not process.isdecimal():
            continue
        for kind in ("fd", "map_files"):
            with suppress(OSError):  # it has ended, or is another user's
                for each in os.scandir(f"/proc/{process}/{kind}"):
                    with suppress(OSError):
                        status = each.stat()
                        if stat.S_ISREG(status.st_mode):
                            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


@contextmanager
def _opened(root: Path, within: tuple[str, ...]) -> Iterator[int | None]:
    """A descriptor of the folder; None where there is none, or a link is in the way."""
    descriptor = None
    try:
        try:
            descriptor = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
            for name in within:
                above, descriptor = descriptor, os.open(name, _FOLDER, dir_fd=descriptor)
                os.close(above)
        except OSError:
            if descriptor is not None:
                os.close(descriptor)
            descriptor = None
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _measured(root: Path, within: tuple[str, ...], name: str, folder: int) -> Entry:
    own = os.stat(name, dir_fd=folder, follow_symlinks=False)
    everything = [own]
    if stat.S_ISDIR(own.st_mode):
        for _, folders, files, inside in os.fwalk(name, dir_fd=folder, follow_symlinks=False):
            for each in (*folders, *files):
                with suppress(FileNotFoundError):
                    everything.append(os.stat(each, dir_fd=inside, follow_symlinks=False))
    regular = [each for each in everything if not stat.S_ISDIR(each.st_mode)]
    user = os.getuid()
    return Entry(
        root,
        within,
        name,
        bytes=_BLOCK * sum(each.st_blocks for each in everything),
        files=len(regular),
        modified=max(each.st_mtime for each in everything),
        used=max(max(each.st_mtime, each.st_atime) for each in regular or [own]),
        identity=frozenset((each.st_dev, each.st_ino) for each in everything),
        folder=stat.S_ISDIR(own.st_mode),
        ours=not stat.S_ISLNK(own.st_mode)
        and all(each.st_uid == user and each.st_dev == own.st_dev for each in everything),
    )
