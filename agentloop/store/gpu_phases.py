"""GPU phases: who had the accelerator, from when to when."""

from __future__ import annotations

from datetime import UTC, datetime

from agentloop.store.database import Database


def save(
    database: Database,
    *,
    campaign: str,
    iteration: int,
    phase: str,
    started: datetime,
    finished: datetime,
    peak_bytes: int | None = None,
    failed: bool = False,
) -> None:
    """Store one phase (`collect`, `train`, …), its times with a time zone.

    `peak_bytes`: most memory in use. `failed`: it ended with an error.
    """
    times = [moment.astimezone(UTC).replace(tzinfo=None) for moment in (started, finished)]
    database.execute(
        "INSERT INTO gpu_phases VALUES (?, ?, ?, ?, ?, ?, ?)", [campaign, iteration, phase, *times, peak_bytes, failed]
    )
