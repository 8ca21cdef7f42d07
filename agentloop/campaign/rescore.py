"""Scoring stored trajectories again, with the environment of the settings or of the campaign that is meant."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop import environments
from agentloop.curation import scoring
from agentloop.curation.scoring import Rescored
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database


def rescore(
    database: Database, settings: Settings, scorers: Sequence[str] = (), *, campaign: str | None = None
) -> list[Rescored]:
    """Score all stored trajectories again, or those that `campaign` collected.

    Raises as `scoring.rescore` does, and SettingError.
    """
    environment = settings.environment
    if campaign is not None:
        environment = campaigns.settings_json(database, campaign)["environment"]
    environments.get(environment)  # a user's own is known by name from then on
    return scoring.rescore(database, environments.get, scorers, campaign=campaign)
