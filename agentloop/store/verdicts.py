"""Verdicts: what the gate decided, and on which two evaluations."""

from __future__ import annotations

from dataclasses import asdict

from agentloop.errors import StoreError
from agentloop.naming import content_id
from agentloop.records import GuardResult, Interval, Verdict
from agentloop.store.clock import now
from agentloop.store.database import Database


def save(database: Database, verdict: Verdict, *, campaign: str, iteration: int, adapter: str) -> str:
    """Store the verdict on an adapter; once only. Returns its id (`verdict_…`)."""
    verdict_id = content_id("verdict", [campaign, iteration, adapter, verdict])
    with database.transaction():
        database.execute(
            """
            INSERT INTO verdicts
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
                    (SELECT coalesce(max(number), 0) + 1 FROM verdicts), ?, ?)
            ON CONFLICT DO NOTHING
            """,
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
                verdict.look,
                verdict.looks,
                verdict.alpha,
                verdict.evidence,
                verdict.needed,
            ],
        )
        for position, guard in enumerate(verdict.guards):
            database.execute(
                "INSERT INTO verdict_guards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [verdict_id, position, *asdict(guard).values()],
            )
    return verdict_id


def load(database: Database, verdict_id: str) -> Verdict:
    """Raises StoreError for an unknown id."""
    rows = database.execute(
        """
        SELECT decision, champion, challenger, champion_success, challenger_success, difference, mcnemar_p, reason,
               look, looks, alpha, evidence, needed
        FROM verdicts WHERE id = ?
        """,
        [verdict_id],
    )
    if not rows:
        raise StoreError(f"{database.path}: no verdict {verdict_id}")
    decision, champion, challenger, before, after, difference, *test = rows[0]
    before, after, difference = (Interval(**interval) for interval in (before, after, difference))
    p, reason, look, looks, alpha, evidence, needed = test
    return Verdict(
        decision,
        champion,
        challenger,
        before,
        after,
        difference,
        p,
        reason,
        look,
        looks,
        alpha,
        _guards(database, verdict_id),
        evidence,
        needed,
    )


def before_evidence(
    database: Database, campaign: str, iteration: int, adapter: str, look: int
) -> tuple[str, Verdict] | None:
    """The id and verdict of this look, where it is from before the gate went by e-values; None where there is none."""
    rows = database.execute(
        """
        SELECT id FROM verdicts
        WHERE campaign = ? AND iteration = ? AND adapter = ? AND look = ? AND evidence IS NULL
        ORDER BY number DESC LIMIT 1
        """,
        [campaign, iteration, adapter, look],
    )
    return (rows[0][0], load(database, rows[0][0])) if rows else None


def _guards(database: Database, verdict_id: str) -> tuple[GuardResult, ...]:
    rows = database.execute(
        """
        SELECT environment, champion, challenger, difference, bound, margin, evidence, needed
        FROM verdict_guards WHERE verdict = ? ORDER BY position
        """,
        [verdict_id],
    )
    return tuple(
        GuardResult(environment, champion, challenger, Interval(**difference), *figures)
        for environment, champion, challenger, difference, *figures in rows
    )
