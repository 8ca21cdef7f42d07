"""Notices as they are kept: each is made once, whoever comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentloop.store.clock import now
from agentloop.store.database import Database


@dataclass(frozen=True)
class Told:
    """A notice that was made, and what became of it."""

    campaign: str
    events: tuple[str, ...]
    line: str
    made: datetime
    """UTC."""
    arrived: tuple[str, ...] | None
    """Ways on which it arrived; None where it was not sent."""
    failed: tuple[str, ...]
    """Ways on which it did not, each with the reason."""


def claim(database: Database, key: str, *, campaign: str, events: Sequence[str], line: str, judged: bool) -> bool:
    """Write the notice down; False where somebody has made one with this key already.

    It covers every verdict on the campaign up to now; `judged` says that an earlier one does not cover them all.
    """
    inserted = database.execute(
        """
        INSERT INTO notices
        SELECT coalesce(max(number), 0) + 1, $key, $campaign, $events, $line,
               (SELECT coalesce(max(number), 0) FROM verdicts WHERE campaign = $campaign), $judged, $now, NULL, NULL
        FROM notices
        ON CONFLICT DO NOTHING
        RETURNING key
        """,
        {
            "key": key,
            "campaign": campaign,
            "events": list(events),
            "line": line,
            "judged": judged,
            "now": now(),
        },
    )
    return bool(inserted)


def sent(database: Database, key: str, *, arrived: Sequence[str], failed: Sequence[str]) -> None:
    """Note what became of a notice."""
    database.execute("UPDATE notices SET arrived = ?, failed = ? WHERE key = ?", [list(arrived), list(failed), key])


def newest_verdict(database: Database, campaign: str) -> int | None:
    """Number of the newest verdict that the campaign's notices cover, 0 where there was none; None without a notice."""
    ((number,),) = database.execute("SELECT max(verdict) FROM notices WHERE campaign = ?", [campaign])
    return number


def nights_without_promotion(database: Database, campaign: str) -> int:
    """Return how many runs in a row, up to the newest notice, ended with a verdict and without a promotion."""
    ((nights,),) = database.execute(
        """
        SELECT count(*) FROM notices
        WHERE campaign = $campaign AND judged AND list_contains(events, 'done') AND number > (
            SELECT coalesce(max(number), 0) FROM notices WHERE campaign = $campaign AND list_contains(events, 'promoted')
        )
        """,
        {"campaign": campaign},
    )
    return nights


def newest(database: Database, count: int) -> list[Told]:
    """The newest notices, the newest first."""
    rows = database.execute(
        "SELECT campaign, events, line, made, arrived, failed FROM notices ORDER BY number DESC LIMIT ?", [count]
    )
    return [
        Told(campaign, tuple(events), line, made, None if arrived is None else tuple(arrived), tuple(failed or ()))
        for campaign, events, line, made, arrived, failed in rows
    ]
