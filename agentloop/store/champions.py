"""The champion pointer of a campaign and its history. It only ever gets new entries; a rollback is one too."""

from __future__ import annotations

from agentloop.store.database import Database


def champion(database: Database, campaign: str) -> str | None:
    """Adapter id of the champion; None while the base model is champion."""
    raise NotImplementedError


def promote(database: Database, campaign: str, adapter: str, *, iteration: int, verdict: str) -> None:
    """Move the pointer on a verdict (its id, from `verdicts.save`); once only. Raises StoreError unless it says promote."""
    raise NotImplementedError


def rollback(database: Database, campaign: str, adapter: str | None, *, reason: str) -> None:
    """Move the pointer back to an earlier champion, None being the base. Raises StoreError for one that never was."""
    raise NotImplementedError


def history(database: Database, campaign: str) -> list[tuple[int, str | None, str]]:
    """(iteration, adapter id, reason), oldest first."""
    raise NotImplementedError
