"""Verdicts: what the gate decided, and on which two evaluations."""

from __future__ import annotations

from dataclasses import asdict

from agentloop.errors import StoreError
from agentloop.records import Interval, Verdict, content_id
from agentloop.store.database import Database, now


def save(database: Database, verdict: Verdict, *, campaign: str, iteration: int, adapter: str) -> str:
    """Store the verdict on an adapter; once only. Returns its id (`verdict_…`)."""
    verdict_id = content_id("verdict", [campaign, iteration, adapter, asdict(verdict)])
    database.execute(
        "INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            verdict_id,
            campaign,
            iteration,
            adapter,
            verdict.decision,
            verdict.champion,
            verdict.challenger,
            asdict(verdict.champion_success),
            asdict(verdict.challenger_success),
            asdict(verdict.difference),
            verdict.mcnemar_p,
            verdict.reason,
            now(),
        ],
    )
    return verdict_id


def load(database: Database, verdict_id: str) -> Verdict:
    """Raises StoreError for an unknown id."""
    rows = database.execute(
        """
        SELECT decision, champion, challenger, champion_success, challenger_success, difference, mcnemar_p, reason
        FROM verdicts WHERE id = ?
        """,
        [verdict_id],
    )
    if not rows:
        raise StoreError(f"{database.path}: no verdict {verdict_id}")
    decision, champion, challenger, *intervals, p, reason = rows[0]
    return Verdict(decision, champion, challenger, *(Interval(**interval) for interval in intervals), p, reason)
