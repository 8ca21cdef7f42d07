"""The database held open for a moment after its use: who uses it next in this process need not open it again.

Opening it and closing it take some 80 ms, most of it for the schema, and a night's step uses it several times. It is let go of
as soon as somebody else waits for it, whichever process that is, and after a moment of rest in any case.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentloop.errors import StoreError
from agentloop.store.database import Database
from agentloop.store.locks import POLL_SECONDS, somebody_waits

REST_SECONDS = 0.5
"""Without use, after which the database is let go of."""


class Kept:
    """One database of this process. Whoever uses it has it alone, and may use it again meanwhile in the same thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._database: Database | None = None
        self._users = 0
        self._rests_since = 0.0
        self._watch: threading.Thread | None = None
        atexit.register(self.close)

    @contextmanager
    def using(self) -> Iterator[Database]:
        """The database, opened for writing where it is not open. Raises StoreError as `Database.open` does."""
        with self._lock:
            if self._database is None:
                self._database = Database.open(self._path)
            self._users += 1
            try:
                yield self._database
            except BaseException:
                self._users -= 1
                if not self._users:  # who comes next is not to meet what has failed
                    self.close()
                raise
            self._users -= 1
            if not self._users:
                self._rest()

    def close(self) -> None:
        """Let go of the database where it is open and rests. Raises StoreError as `Database.close` does."""
        with self._lock:
            if self._database is not None and not self._users:
                database, self._database = self._database, None
                database.close()

    def _rest(self) -> None:
        self._rests_since = time.monotonic()
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=self._let_go_in_time, daemon=True, name="database at rest")
            self._watch.start()

    def _let_go_in_time(self) -> None:
        while True:
            time.sleep(POLL_SECONDS)
            with self._lock:  # waits for whoever uses it
                if self._database is None:
                    self._watch = None
                    return
                if time.monotonic() - self._rests_since > REST_SECONDS or somebody_waits(self._path):
                    self._watch = None
                    with suppress(StoreError):  # what was committed is in its log, and the next use says what is wrong
                        self.close()
                    return


_KEPT: dict[Path, Kept] = {}


def kept(path: Path) -> Kept:
    """Return this process's database of that path."""
    path = Path(path).absolute()
    return _KEPT.get(path) or _KEPT.setdefault(path, Kept(path))
