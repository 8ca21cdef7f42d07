"""Campaigns: one series of iterations with the settings that define it."""

from __future__ import annotations

from agentloop.settings import Settings
from agentloop.store.database import Database


def register(database: Database, settings: Settings) -> None:
    """Begin the campaign `settings.campaign`, or continue it.

    Raises StoreError, in one line that names the setting with both values, where a setting that defines the campaign
    (model, environment, seed, agent, selection, …) differs from what it began with. Paths, serving, the number of
    iterations and what only affects speed may change.
    """
    raise NotImplementedError


def names(database: Database) -> list[str]:
    """Campaigns, newest first."""
    raise NotImplementedError


def settings_json(database: Database, campaign: str) -> dict:
    """The resolved settings that the campaign was last run with. Raises StoreError for an unknown campaign."""
    raise NotImplementedError


def begin_iteration(database: Database, campaign: str, iteration: int, *, champion: str | None) -> None:
    """Note that an iteration begins with this champion (adapter id, None for the base); once only."""
    raise NotImplementedError


def finish_iteration(database: Database, campaign: str, iteration: int) -> None:
    """Note that an iteration is complete."""
    raise NotImplementedError
