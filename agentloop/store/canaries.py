"""Canaries: served logprobs against the trainer's, after every reload."""

from __future__ import annotations

from agentloop.store.clock import now
from agentloop.store.database import Database


def save(
    database: Database,
    *,
    campaign: str,
    iteration: int,
    policy: str,
    passed: bool,
    tokens: int,
    mean_difference: float,
    max_difference: float,
    tolerance: float,
) -> None:
    """Store one comparison. Differences in nats per token, absolute; `tolerance` is what `passed` was judged by."""
    database.execute(
        "INSERT INTO canaries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(number), 0) + 1 FROM canaries))",
        [campaign, iteration, policy, passed, tokens, mean_difference, max_difference, tolerance, now()],
    )
