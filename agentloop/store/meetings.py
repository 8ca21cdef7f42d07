"""Meetings: the champion against the base, against the best earlier champion, and against itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

from agentloop.records import Interval
from agentloop.store.clock import now
from agentloop.store.database import Database

Kind = Literal["base", "earlier", "itself"]


@dataclass(frozen=True)
class Meeting:
    iteration: int
    kind: Kind
    block: int
    """Block of held-out tasks."""
    champion: str
    """Id of the champion's evaluation."""
    other: str
    """Id of the other's evaluation."""
    difference: Interval
    """The other less the champion."""
    evidence: float
    """E-value that the other is better."""
    needed: float
    better: bool
    """The evidence reached what was needed."""
    reason: str
    """One sentence."""


def save(database: Database, campaign: str, meeting: Meeting) -> None:
    database.execute(
        """
        INSERT INTO meetings
        SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM meetings WHERE campaign = ?
        """,
        [
            campaign,
            meeting.iteration,
            meeting.kind,
            meeting.block,
            meeting.champion,
            meeting.other,
            asdict(meeting.difference),
            meeting.evidence,
            meeting.needed,
            meeting.better,
            meeting.reason,
            now(),
            campaign,
        ],
    )


def all_of(database: Database, campaign: str) -> list[Meeting]:
    """Every meeting of the campaign, in order."""
    rows = database.execute(
        """
        SELECT iteration, kind, block, champion, other, difference, evidence, needed, better, reason
        FROM meetings WHERE campaign = ? ORDER BY number
        """,
        [campaign],
    )
    names = [field.name for field in fields(Meeting)]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return [Meeting(**each | {"difference": Interval(**each["difference"])}) for each in found]
