"""The champion pointer of a campaign and its history. It only ever gets new entries; a rollback is one too."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agentloop.errors import StoreError
from agentloop.store import verdicts
from agentloop.store.clock import now
from agentloop.store.database import Database


@dataclass(frozen=True)
class Move:
    """One entry of the history."""

    number: int
    """From 1."""
    iteration: int
    adapter: str | None
    """None: the base."""
    verdict: str | None
    """None: a rollback."""
    reason: str
    moved: datetime
    """UTC."""


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


def moves(database: Database, campaign: str) -> list[Move]:
    """The history in full, oldest first."""
    rows = database.execute(
        "SELECT number, iteration, adapter, verdict, reason, moved FROM champions WHERE campaign = ? ORDER BY number",
        [campaign],
    )
    return [Move(*row) for row in rows]


def predecessor(database: Database, campaign: str) -> str | None:
    """Whom the champion replaced when it was promoted; None for the base. Raises StoreError where the base is champion."""
    entries = moves(database, campaign)
    if not entries or entries[-1].adapter is None:
        raise StoreError(f"the base model is champion of campaign {campaign!r}: there is none before it")
    promoted = max(place for place, each in enumerate(entries) if each.adapter == entries[-1].adapter and each.verdict)
    return entries[promoted - 1].adapter if promoted else None


def rollbacks(database: Database, campaign: str, iteration: int) -> int:
    """Rollbacks that reach this iteration: all that were made before it was complete."""
    ((count,),) = database.execute(
        """
        SELECT count(*) FROM champions c
        LEFT JOIN iterations i ON i.campaign = c.campaign AND i.iteration = $iteration
        WHERE c.campaign = $campaign AND c.verdict IS NULL AND (i.moves IS NULL OR c.number <= i.moves)
        """,
        {"campaign": campaign, "iteration": iteration},
    )
    return count


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
