"""Progress that a person can watch: a progress artifact in the Prefect UI, and a line in the log now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from agentloop.at_hand import AtHand
from agentloop_flows.artifacts import show

UPDATE_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""After a report that the server did not take."""
LOG_SECONDS = 10.0

_BARS: AtHand[Progress] = AtHand()


class Progress:
    """Counts from 0 to `total`."""

    def __init__(self, description: str, total: int, artifact: Any) -> None:
        self.description, self.total, self.done = description, total, 0
        self._artifact = artifact
        """None where the server did not take it."""
        self._reported = self._logged = time.monotonic()

    def __str__(self) -> str:
        return f"{self.description}: {self.done} of {self.total}"

    def advance(self, count: int = 1) -> None:
        self.advance_to(self.done + count)

    def advance_to(self, done: int) -> None:
        self.done = min(done, self.total)  # what is tried again after a fault is counted twice
        now = time.monotonic()
        if now - self._reported >= UPDATE_SECONDS:
            self._reported = now if self.report() else now + SILENT_SECONDS
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            get_run_logger().info(str(self))

    def report(self) -> bool:
        """Show it in the UI. False where the server does not take it."""
        if self._artifact is None:
            return False
        shown = show(
            update_progress_artifact,
            artifact_id=self._artifact,
            progress=100 * self.done / max(1, self.total),
            description=str(self),
        )
        return shown is not None


@contextmanager
def progress(description: str, total: int) -> Iterator[Progress]:
    """A bar for one phase, shown at 100 % when the phase is left without an error."""
    artifact = show(create_progress_artifact, progress=0.0, description=f"{description}: 0 of {total}")
    bar = Progress(description, total, artifact)
    with _BARS.holding(description, bar):
        yield bar
    bar.done = bar.total
    bar.report()


def advance(description: str) -> None:
    """Count one more on the bar of that description; another process than the one that shows it counts nothing."""
    if bar := _BARS.get(description):
        bar.advance()
