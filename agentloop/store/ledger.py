"""The ledger: which steps are done, and with what result. A step looks here first.

A key is a content id of everything that determines the step's result, so that a changed input is another step.
"""

from __future__ import annotations

import json
from typing import Any

from agentloop.naming import canonical_json
from agentloop.store.clock import now
from agentloop.store.database import Database

NEXT = "(SELECT coalesce(max(greatest(begun, ended)), 0) + 1 FROM steps)"
"""Number of the next beginning or end of a step. A clock can be set back: times do not tell the order."""

INTERRUPTED = "interrupted"
"""The error of a step whose process ended before the step did."""


class Ledger:
    """Steps by key."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def done(self, key: str) -> Any | None:
        """The JSON result of a finished step, None where it is not finished. (A step's result is never None.)"""
        rows = self.database.execute("SELECT result FROM steps WHERE key = ? AND status = 'done'", [key])
        return json.loads(rows[0][0]) if rows else None

    def start(self, key: str, *, campaign: str, iteration: int, name: str) -> None:
        """Note that a step begins; without effect on a finished step."""
        self.database.execute(
            f"""
            INSERT INTO steps
            SELECT $key, $campaign, $iteration, $name, 'started', NULL, NULL, 1, $now, NULL, {NEXT}, NULL
            ON CONFLICT DO UPDATE
            SET status = 'started', error = NULL, tries = tries + 1, started = $now, begun = excluded.begun
            WHERE steps.status <> 'done'
            """,
            {"key": key, "campaign": campaign, "iteration": iteration, "name": name, "now": now()},
        )

    def record(self, key: str, *, campaign: str, iteration: int, name: str, result: Any) -> None:
        """Note that a step is finished. The first result stays: recording it again changes nothing."""
        if result is None:
            raise ValueError(f"step {name}: a result must not be None, which means that the step is not done")
        self.database.execute(
            f"""
            INSERT INTO steps
            SELECT $key, $campaign, $iteration, $name, 'done', $result, NULL, 1, $now, $now, {NEXT}, {NEXT}
            ON CONFLICT DO UPDATE
            SET status = 'done', result = $result, error = NULL, finished = $now, ended = excluded.ended
            WHERE steps.status <> 'done'
            """,
            {
                "key": key,
                "campaign": campaign,
                "iteration": iteration,
                "name": name,
                "result": canonical_json(result),
                "now": now(),
            },
        )

    def fail(self, key: str, *, campaign: str, iteration: int, name: str, error: str) -> None:
        """Note that a step failed, for people to see; it counts as not done."""
        self.database.execute(
            f"""
            INSERT INTO steps
            SELECT $key, $campaign, $iteration, $name, 'failed', NULL, $error, 1, $now, $now, {NEXT}, {NEXT}
            ON CONFLICT DO UPDATE SET status = 'failed', error = $error, finished = $now, ended = excluded.ended
            WHERE steps.status <> 'done'
            """,
            {"key": key, "campaign": campaign, "iteration": iteration, "name": name, "error": error, "now": now()},
        )

    def interrupt(self) -> None:
        """Note as failed what was begun and has not ended. Only for the owner of the data root: nobody else is at work."""
        self.database.execute(
            f"UPDATE steps SET status = 'failed', error = ?, finished = ?, ended = {NEXT} WHERE status = 'started'",
            [INTERRUPTED, now()],
        )
