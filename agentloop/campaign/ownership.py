"""One run at a time owns a data root."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentloop.errors import StoreError


@contextmanager
def owned(data: Path) -> Iterator[None]:
    """Own the data root meanwhile. Raises StoreError, with the other's process id, where a run owns it."""
    with open(data / "run.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StoreError(f"{data}: owned by another run (process {lock.read().strip()})") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
