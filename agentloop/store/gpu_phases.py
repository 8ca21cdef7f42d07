"""GPU phases: who had the accelerator, from when to when."""

from __future__ import annotations

from datetime import datetime

from agentloop.store.database import Database


def save(database: Database, *, campaign: str, iteration: int, phase: str, started: datetime, finished: datetime,
         peak_bytes: int | None = None) -> None:
    """Store one phase (`collect`, `train`, `evaluate`, …). `peak_bytes`: most accelerator memory in use, where known."""
    raise NotImplementedError
