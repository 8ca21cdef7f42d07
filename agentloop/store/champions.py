"""The champion pointer of a campaign and its history. It only ever gets new entries; a rollback is one too."""

from __future__ import annotations

from agentloop.errors import StoreError
from agentloop.store import verdicts
from agentloop.store.database import Database, now


def champion(database: Database, campaign: str) -> str | None:
    """Adapter id of the champion; None while the base model is champion."""
    entries = history(database, campaign)
    return entries[-1][1] if entries else None


def promote(database: Database, campaign: str, adapter: str, *, iteration: int, verdict: str) -> None:
    """Move the pointer on a verdict (id, from `verdicts.save`); once only. Raises StoreError unless it says promote."""
    judged = verdicts.load(database, verdict)
    (about,) = database.execute("SELECT adapter FROM verdicts WHERE id = ?", [verdict])[0]
    if judged.decision != "promote" or about != adapter:
        raise StoreError(f"{adapter}: not promoted, because {verdict} says {judged.decision} about {about}")
    with database.transaction():
        if not database.execute("SELECT 1 FROM champions WHERE campaign = ? AND verdict = ?", [campaign, verdict]):
            _move(database, campaign, iteration, adapter, verdict, judged.reason)


def rollback(database: Database, campaign: str, adapter: str | None, *, reason: str) -> None:
    """Move the pointer back to an earlier champion, None being the base. Raises StoreError for one that never was."""
    entries = history(database, campaign)
    if adapter is not None and adapter not in {earlier for _, earlier, _ in entries}:
        raise StoreError(f"{adapter}: was never champion of campaign {campaign!r}")
    if champion(database, campaign) == adapter:
        raise StoreError(f"{adapter or 'the base model'}: is champion of campaign {campaign!r} already")
    _move(database, campaign, entries[-1][0], adapter, None, reason)


def history(database: Database, campaign: str) -> list[tuple[int, str | None, str]]:
    """(iteration, adapter id, reason), oldest first."""
    return database.execute(
        "SELECT iteration, adapter, reason FROM champions WHERE campaign = ? ORDER BY number", [campaign]
    )


def _move(
    database: Database, campaign: str, iteration: int, adapter: str | None, verdict: str | None, reason: str
) -> None:
    database.execute(
        """
        INSERT INTO champions
        SELECT $campaign, coalesce(max(number), 0) + 1, $iteration, $adapter, $verdict, $reason, $now
        FROM champions WHERE campaign = $campaign
        """,
        {
            "campaign": campaign,
            "iteration": iteration,
            "adapter": adapter,
            "verdict": verdict,
            "reason": reason,
            "now": now(),
        },
    )
