"""Contests: each challenger's entry in the life of its campaign, noted before it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentloop.records import Entry
from agentloop.store.database import Database


@dataclass(frozen=True)
class Contest:
    """A challenger that was noted."""

    entry: Entry
    iteration: int
    adapter: str
    moves: int
    """Moves of the champion pointer before it."""
    promoted: bool
    guards: tuple[str, ...]
    """Guards that were asked about it."""


def all_of(database: Database, campaign: str) -> list[Contest]:
    """Every challenger of the campaign, in order."""
    rows = database.execute(
        """
        SELECT c.number, c.block, c.place, c.promotions, c.used_up, c.iteration, c.adapter, c.moves,
               bool_or(coalesce(v.decision = 'promote', false)),
               coalesce(list(DISTINCT g.environment) FILTER (g.environment IS NOT NULL), [])
        FROM contests c
        LEFT JOIN verdicts v ON v.campaign = c.campaign AND v.iteration = c.iteration AND v.adapter = c.adapter
        LEFT JOIN verdict_guards g ON g.verdict = v.id
        WHERE c.campaign = ?
        GROUP BY ALL
        ORDER BY c.number
        """,
        [campaign],
    )
    return [
        Contest(Entry(*entry), iteration, adapter, moves, promoted, tuple(sorted(guards)))
        for *entry, iteration, adapter, moves, promoted, guards in rows
    ]


def note(database: Database, campaign: str, iteration: int, adapter: str, plan: Callable[[], Entry]) -> Entry:
    """Return where the challenger stands; what `plan()` says is noted the first time."""
    with database.transaction():
        known = [each for each in all_of(database, campaign) if (each.iteration, each.adapter) == (iteration, adapter)]
        if known:
            return known[0].entry
        entry = plan()
        database.execute(
            """
            INSERT INTO contests
            SELECT ?, ?, ?, ?, ?, ?, ?, ?, (SELECT count(*) FROM champions WHERE campaign = ?)
            """,
            [
                campaign,
                entry.number,
                iteration,
                adapter,
                entry.block,
                entry.place,
                entry.promotions,
                entry.used_up,
                campaign,
            ],
        )
    return entry
