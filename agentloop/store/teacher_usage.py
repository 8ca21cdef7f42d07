"""What teachers behind endpoints were asked: requests, tokens as the endpoint counts them, seconds."""

from __future__ import annotations

from collections.abc import Mapping

from agentloop.store.clock import now
from agentloop.store.database import Database


def add(
    database: Database,
    campaign: str,
    shard: str,
    *,
    requests: int,
    prompt_tokens: int,
    completion_tokens: int,
    seconds: float,
) -> None:
    """Note what a shard has cost, also where it did not come to its end."""
    database.execute(
        "INSERT INTO teacher_usage VALUES (?, ?, ?, ?, ?, ?, ?)",
        [campaign, shard, requests, prompt_tokens, completion_tokens, seconds, now()],
    )


def total(database: Database, campaign: str) -> dict[str, float] | None:
    """Return what a teaching has cost, all tries together; None where no teacher was asked."""
    rows = database.arrow(
        """
        SELECT sum(requests)::BIGINT AS requests, sum(prompt_tokens)::BIGINT AS prompt_tokens,
               sum(completion_tokens)::BIGINT AS completion_tokens, round(sum(seconds), 1) AS seconds
        FROM teacher_usage WHERE campaign = ? HAVING count(*) > 0
        """,
        [campaign],
    ).to_pylist()
    return rows[0] if rows else None


def told(spent: Mapping[str, float]) -> str:
    """Return what `total` gives as one sentence."""
    return (
        f"The teacher was sent {spent['requests']:,} requests: {spent['prompt_tokens']:,} tokens of prompts, "
        f"{spent['completion_tokens']:,} of answers, in {spent['seconds']:,.0f} s."
    )
