"""Scoring stored trajectories again, with the environment of the settings or of the campaign that is meant."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop import environments
from agentloop.curation import scoring
from agentloop.curation.scoring import Rescored
from agentloop.environments import model_judge
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database


def rescore(
    database: Database,
    settings: Settings,
    scorers: Sequence[str] = (),
    *,
    campaign: str | None = None,
    ask_again: bool = False,
) -> list[Rescored]:
    """Score all stored trajectories again, or those that `campaign` collected.

    `ask_again`: models that score are asked anew; by default their replies are those that are stored. Raises as
    `scoring.rescore` does, and SettingError.
    """
    environment = settings.environment
    if campaign is not None:
        environment = campaigns.settings_json(database, campaign)["environment"]
    environments.get(environment)  # a user's own is known by name from then on
    with model_judge.kept_in(settings.paths.judgements, anew=ask_again):
        return scoring.rescore(database, environments.get, scorers, campaign=campaign)
