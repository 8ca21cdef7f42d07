"""The one process that serves policies from a data root beside the runs: what it serves, and how it gives way to a run.

On a card there is room for one vLLM. Who serves holds a lock while its vLLM is up, and looks whether a run has taken the data
root; a run takes the data root first and then waits until that lock is free. So whoever comes first, the run gets the card.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from agentloop import card
from agentloop.campaign import lock
from agentloop.errors import StoreError
from agentloop.files import is_locked, try_lock
from agentloop.serving.client import Endpoint

LOCK_FILE = "served.lock"


@dataclass(frozen=True)
class Served:
    """A command that serves policies from a data root."""

    by: str
    """The command."""
    campaign: str
    pid: int = 0
    url: str | None = None
    """None while it starts, and where it is for nobody else."""
    key_file: str | None = None
    gives_way: bool = True
    """Whether a run that begins gets the card."""

    def __str__(self) -> str:
        return f"{self.by} (campaign {self.campaign}, process {self.pid})"

    @property
    def endpoint(self) -> Endpoint | None:
        """Return where others may ask it; None where they may not."""
        if self.url is None or self.key_file is None:
            return None
        return Endpoint(self.url, Path(self.key_file).read_text(encoding="utf-8").strip())


def now(data: Path) -> Served | None:
    """Return what is served from the data root now, None for nothing."""
    if not is_locked(data / LOCK_FILE):
        return None
    try:
        return Served(**json.loads((data / LOCK_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it has just been taken, or let go
        return Served("a command", "unknown")


@contextmanager
def held(data: Path, what: Served) -> Iterator[Callable[[Served], None]]:
    """Hold the lock meanwhile. Gives what writes down what is served by now. Raises StoreError where another holds it."""
    with _opened(data / LOCK_FILE) as file:
        if not try_lock(file.fileno(), fcntl.LOCK_EX, data / LOCK_FILE):
            raise StoreError(f"{data}: {now(data) or 'another process'} serves from it already; end that first")
        _write(file.fileno(), what)
        try:
            yield lambda later: _write(file.fileno(), later)
        finally:
            os.ftruncate(file.fileno(), 0)


def wanted_by(data: Path) -> lock.Owner | None:
    """Return the run that owns the data root and so gets the card; None where none does, or a command that needs no card."""
    found = lock.owner(data)
    return found if found is not None and found.campaign is not None else None


def wait_for_the_card(data: Path, tell: Callable[[str], None]) -> None:
    """Return when nothing is served that would be in the way of the run that owns the data root. `tell` gets a line."""
    told = False
    while (served := now(data)) is not None and served.gives_way and card.present():
        if not told:
            tell(f"waiting for {served} to hand over the card")
            told = True
        time.sleep(lock.POLL_SECONDS)


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "a+b")
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror})") from None


def _write(descriptor: int, what: Served) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(asdict(what) | {"pid": os.getpid()}).encode())
