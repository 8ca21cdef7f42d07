"""One run at a time owns a data root; the next one waits for its turn.

The lock is the system's (flock): it is free as soon as the process that held it has ended, however it ended. The file says
who holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from agentloop.errors import StoreError, lacks_space
from agentloop.files import is_locked, try_lock

LOCK_FILE = "run.lock"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Owner:
    """The run that owns a data root."""

    pid: int
    started: str
    """When it took the data root, in UTC (ISO 8601)."""
    campaign: str | None = None
    flow_run: str | None = None
    """Prefect's id of the run, where it is one."""

    def __str__(self) -> str:
        named = f"campaign {self.campaign}" if self.campaign else "a command"
        return f"{named} (process {self.pid}, since {self.started:.19} UTC)"


@contextmanager
def owned(
    data: Path,
    *,
    campaign: str | None = None,
    flow_run: str | None = None,
    wait: bool = True,
    tell: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Own the data root meanwhile.

    Where another run owns it, `tell` (by default print, which flows log) gets one line about that run, and this one goes on
    when the other has ended; without `wait`, StoreError is raised.
    """
    with _opened(data / LOCK_FILE) as lock:
        if not try_lock(lock.fileno(), fcntl.LOCK_EX, data / LOCK_FILE):
            if not wait:
                raise StoreError(f"{data}: owned by another run, {_named(data)}; wait for its end")
            (tell or _print)(f"waiting for {_named(data)}, which owns {data}; this run goes on when that one has ended")
            while not try_lock(lock.fileno(), fcntl.LOCK_EX, data / LOCK_FILE):
                time.sleep(POLL_SECONDS)
        started = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds")
        present = Owner(os.getpid(), started, campaign, flow_run)
        _write(lock.fileno(), json.dumps(asdict(present)) + "\n")
        try:
            yield
        finally:
            _write(lock.fileno(), "")


def owner(data: Path) -> Owner | None:
    """The run that owns the data root now, None where it is free."""
    return _read(data) if is_locked(data / LOCK_FILE) else None


def _opened(file: Path) -> IO[bytes]:
    try:
        return open(file, "a+b")  # creates the file and truncates nothing: it may tell of somebody else
    except FileNotFoundError:
        raise StoreError(f"{file.parent}: no data here yet (paths.data)") from None
    except OSError as error:
        raise StoreError(f"{file}: cannot be opened ({error.strerror})") from None


def _print(line: str) -> None:
    print(line, flush=True)  # looked up now: Prefect puts its own in place of it while a flow runs


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    try:
        os.write(lock, text.encode())
    except OSError as error:  # who prunes a full disk holds the lock all the same, and only cannot say so
        if not lacks_space(error):
            raise


def _read(data: Path) -> Owner:
    try:
        return Owner(**json.loads((data / LOCK_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it has just been taken, or let go
        return Owner(0, "now")


def _named(data: Path) -> str:
    """Return who holds the lock; it may have been taken this moment, before its owner has written down who it is."""
    for _ in range(20):
        found = _read(data)
        if found.pid:
            return str(found)
        time.sleep(POLL_SECONDS / 20)
    return "another process"
