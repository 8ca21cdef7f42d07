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

from agentloop.errors import StoreError
from agentloop.files import is_locked

LOCK_FILE = "run.lock"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Owner:
    """Who owns a data root."""

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
    # "a+" creates the file and truncates nothing: it may tell of somebody else
    with open(data / LOCK_FILE, "a+b") as lock:
        if not _taken(lock.fileno()):
            if not wait:
                raise StoreError(f"{data}: owned by another run, {_named(data)}; wait for its end")
            (tell or _print)(f"waiting for {_named(data)}, which owns {data}; this run goes on when that one has ended")
            while not _taken(lock.fileno()):
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


def _print(line: str) -> None:
    print(line, flush=True)  # looked up now: Prefect puts its own in place of it while a flow runs


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.write(lock, text.encode())


def _read(data: Path) -> Owner:
    try:
        return Owner(**json.loads((data / LOCK_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it has just been taken, or let go
        return Owner(0, "now")


def _named(data: Path) -> str:
    """Who holds the lock; it may have been taken this moment, before its owner has written down who it is."""
    for _ in range(20):
        found = _read(data)
        if found.pid:
            return str(found)
        time.sleep(POLL_SECONDS / 20)
    return "another process"
