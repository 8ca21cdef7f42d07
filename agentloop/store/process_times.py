"""What vLLM and the trainer take beside sampling and training: starts, stops, loads, saves."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from agentloop.store.clock import now
from agentloop.store.database import Database

Process = Literal["vllm", "trainer"]


def save(
    database: Database,
    *,
    campaign: str,
    iteration: int,
    process: Process,
    action: str,
    seconds: float,
    ago: float = 0.0,
    reason: str | None = None,
) -> None:
    """Store that the process took `seconds` for `action`, which ended `ago` seconds before now.

    `reason`: why it was needed, where it was not planned.
    """
    started = now() - timedelta(seconds=seconds + ago)
    database.execute(
        "INSERT INTO process_times VALUES (?, ?, ?, ?, ?, ?, ?)",
        [campaign, iteration, process, action, started, seconds, reason],
    )
