"""Journals: each finished episode of a shard at work is on disk at once, so that a killed collection repeats none of them.

A journal lies beside the shard that it is about, one line a record: a checksum and JSON, the shard's description of itself
first, then its episodes in whatever order they ended. It is only appended to. When the shard is written, the journal goes.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import time
import zlib
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from agentloop import sizes, space
from agentloop.errors import DiskError, NoSpaceError, ShardError, lacks_space
from agentloop.files import temporary_name, try_lock
from agentloop.records import Trajectory
from agentloop.store.shards import Footer, row_of, trajectory_of

SUFFIX = ".journal"
FORMAT = 1
"""Of the lines; a journal of another one is set aside."""

_SYNC_SECONDS = 1.0
"""From one fsync to the next: what a loss of power may cost. A killed process loses nothing that was written."""


class Journal:
    """The finished episodes of one shard, for the one process that plays it. `opened` opens it."""

    def __init__(self, path: Path, descriptor: int, played: dict[str, Trajectory]) -> None:
        self.path = path
        self.played = played
        """By id: the episodes that were finished before this process began."""
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._syncing: Future[None] | None = None
        self._synced = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "journal")  # starts with the first fsync

    def append(self, trajectory: Trajectory) -> None:
        """Write a finished episode. When this returns, killing the process loses it no more; the disk has it a second later.

        Raises NoSpaceError, DiskError, naming the journal; what was half-written is taken back.
        """
        row = row_of(trajectory)
        # JSON has no word for what is not finite
        row["logprobs"] = b64encode(array("d", trajectory.logprobs).tobytes()).decode()
        record = _line(row)
        with _naming(self.path):
            try:
                written = os.write(self._descriptor, record)
                while written < len(record):  # a disk that is nearly full takes a part; the next call says why
                    written += os.write(self._descriptor, record[written:])
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                raise
            self._size += len(record)
            if self._syncing is not None and self._syncing.done():
                self._syncing.result()
                self._syncing = None
            if self._syncing is None and time.monotonic() - self._synced >= _SYNC_SECONDS:
                self._synced = time.monotonic()
                self._syncing = self._thread.submit(os.fdatasync, self._descriptor)

    def remove(self) -> None:
        """Remove the file: the shard is written."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Bring everything to the disk, and let another process have the journal. It never raises."""
        self._thread.shutdown()
        with suppress(OSError):  # what ended the shard is what is told
            if self.path.exists():
                os.fdatasync(self._descriptor)
        os.close(self._descriptor)


def path_of(shard: Path) -> Path:
    """Return where the journal of the shard with this path lies."""
    return shard.with_suffix(SUFFIX)


@contextmanager
def opened(
    shard: Path, about: Footer, planned: Collection[str], *, tell: Callable[[str], None] = print
) -> Iterator[Journal | None]:
    """The journal of the shard with this path, which nobody else has meanwhile; None where another process has it.

    `planned`: ids of the shard's episodes; what else a journal holds is not taken. A record that was cut off at the end is
    dropped. Where one is damaged, the journal is set aside as `*.damaged`, `tell` gets a line, and a new one goes on with the
    others. Raises NoSpaceError, DiskError, naming the journal.
    """
    path = path_of(shard)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    if descriptor is None:
        tell(f"{path}: another process plays this shard as well; this one writes no journal of it")
        yield None
        return
    try:
        with _naming(path):
            descriptor, played = _read(path, descriptor, about, frozenset(planned), tell)
        journal = Journal(path, descriptor, played)
    except BaseException:
        os.close(descriptor)
        raise
    try:
        yield journal
    finally:
        journal.close()


def sweep(shards: Path) -> None:
    """Remove from the folder the journals of shards that are written: a process was killed between the two."""
    for journal in shards.glob(f"*{SUFFIX}"):
        if journal.with_suffix(".parquet").exists():
            journal.unlink(missing_ok=True)


def description(path: Path) -> Footer | None:
    """Return what a journal says of its shard; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _about(_record(file.readline()))
    except (OSError, ValueError):
        return None


def _read(
    path: Path, descriptor: int, about: Footer, planned: frozenset[str], tell: Callable[[str], None]
) -> tuple[int, dict[str, Trajectory]]:
    """The journal's episodes, and the descriptor of what is to be appended to."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        content = file.read()
    whole = content.rfind(b"\n") + 1
    header, *lines = content[:whole].split(b"\n")[:-1] or [b""]
    played: dict[str, Trajectory] = {}
    good, damaged = [], 0
    if whole:
        damaged = 0 if _is_of(header, about.shard) else 1
        for line in lines if not damaged else ():
            trajectory = _episode(line, path, planned)
            if trajectory is None:
                damaged += 1
            elif trajectory.id not in played:
                played[trajectory.id] = trajectory
                good.append(line)
    if damaged:
        aside = _set_aside(path)
        fresh = _rewritten(path, _description(about), good)
        os.close(descriptor)
        tell(
            f"{path}: damaged, set aside as {aside.name}; {len(planned) - len(played)} of {len(planned)} episodes are played"
        )
        return fresh, played
    os.ftruncate(descriptor, whole)
    if not whole:
        os.write(descriptor, _line(_description(about)))
    return descriptor, played


def _locked(path: Path) -> int | None:
    """An open descriptor of the file at this path, with the lock on it; None where somebody else has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(descriptor, fcntl.LOCK_EX, path):
                os.close(descriptor)
                return None
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has just removed it, or put another in its place


def _is_at(path: Path, descriptor: int) -> bool:
    own = os.fstat(descriptor)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _set_aside(path: Path) -> Path:
    """A second name for the damaged file, which keeps its first one until there is a good one in its place."""
    for count in itertools.count(1):
        aside = path.with_name(f"{path.name}{'' if count == 1 else f'.{count}'}.damaged")
        with suppress(FileExistsError):
            os.link(path, aside)
            return aside
    raise AssertionError("unreachable")


def _rewritten(path: Path, about: dict[str, Any], lines: Iterable[bytes]) -> int:
    """A new file of good lines in the place of the old one, locked before anybody else can find it."""
    temporary = path.with_name(temporary_name(path.name))
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        try_lock(descriptor, fcntl.LOCK_EX, path)
        with open(os.dup(descriptor), "wb") as file:
            file.write(b"".join([_line(about), *(line + b"\n" for line in lines)]))
        os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def _description(about: Footer) -> dict[str, Any]:
    return {"format": FORMAT} | asdict(about)


def _line(value: dict[str, Any]) -> bytes:
    content = orjson.dumps(value)
    return b"%08x %b\n" % (zlib.crc32(content), content)


def _record(line: bytes) -> Any:
    """The JSON value of a line. Raises ValueError for one that is not as it was written."""
    checksum, _, content = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(content):
        raise ValueError("another checksum")
    return orjson.loads(content)


def _about(record: dict[str, Any]) -> Footer:
    """Raises ValueError for a description of another format."""
    if record.pop("format", None) != FORMAT:
        raise ValueError("another format")
    return Footer(**record)


def _is_of(header: bytes, shard: str) -> bool:
    try:
        return _about(_record(header)).shard == shard
    except (ValueError, TypeError, AttributeError):
        return False


def _episode(line: bytes, path: Path, planned: frozenset[str]) -> Trajectory | None:
    """The episode of a line; None where it is damaged, or not of this shard."""
    try:
        row = _record(line)
        row["logprobs"] = array("d", b64decode(row["logprobs"]))
        trajectory = trajectory_of(row, path)
    except (ValueError, KeyError, TypeError, ShardError):
        return None
    return trajectory if trajectory.id in planned else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What the system refuses is told with the journal's path."""
    try:
        yield
    except OSError as error:
        if lacks_space(error):
            raise NoSpaceError(f"{path}: {error.strerror} ({sizes.said(space.free(path))} are free)") from error
        raise DiskError(f"{path}: {error.strerror or error}") from error
