"""Bases that demonstrations made of other bases: by what, and how much better they were measured to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentloop.naming import canonical_json
from agentloop.store.clock import now
from agentloop.store.database import Database


@dataclass(frozen=True)
class TaughtBase:
    base: str
    """Fingerprint of what was made (`base_…`)."""
    name: str
    """Of its directory."""
    campaign: str
    """The teaching, which is a campaign of its own."""
    student: str
    """Fingerprint of the base that was taught."""
    adapter: str
    dataset: str
    source: dict[str, Any]
    """Where the demonstrations came from."""
    before: str | None = None
    """Evaluation id of the student; None while it is not measured."""
    after: str | None = None
    """Evaluation id of what was made, on the same tasks."""


def save(database: Database, taught: TaughtBase) -> None:
    """Store a taught base; measurements that are known by now are added, all else stays as it was stored first."""
    database.execute(
        """
        INSERT INTO taught_bases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET before = coalesce(before, excluded.before), after = coalesce(after, excluded.after)
        """,
        [
            taught.base,
            taught.name,
            taught.campaign,
            taught.student,
            taught.adapter,
            taught.dataset,
            canonical_json(taught.source),
            taught.before,
            taught.after,
            now(),
        ],
    )


def find(database: Database, base: str) -> TaughtBase | None:
    """Return how a base was taught; None where it was not, or elsewhere."""
    return _only(database, "base = ?", base)


def of_campaign(database: Database, campaign: str) -> TaughtBase | None:
    """Return what a teaching has made; None where it has made nothing yet, or is no teaching."""
    return _only(database, "campaign = ? ORDER BY made DESC LIMIT 1", campaign)


def _only(database: Database, condition: str, value: str) -> TaughtBase | None:
    rows = database.execute(
        "SELECT base, name, campaign, student, adapter, dataset, source, before, after FROM taught_bases "
        f"WHERE {condition}",
        [value],
    )
    if not rows:
        return None
    base, name, campaign, student, adapter, dataset, source, before, after = rows[0]
    return TaughtBase(base, name, campaign, student, adapter, dataset, json.loads(source), before, after)
