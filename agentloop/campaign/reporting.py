"""The campaign's report, from a snapshot of the database."""

from __future__ import annotations

from pathlib import Path

from agentloop.campaign import standing
from agentloop.campaign.campaign import Campaign
from agentloop.report import page
from agentloop.report import plots as figures
from agentloop.store.database import Database


def write(campaign: Campaign) -> Path:
    """Write the campaign's HTML page, also while a run is at work, and return its path."""
    paths = campaign.settings.paths
    with Database.open_snapshot(paths.database) as database:
        return page.write(
            database,
            campaign.name,
            standing.headline(database, campaign.name),
            paths.shards,
            paths.reports / f"{campaign.name}.html",
            decode=lambda token: campaign.tokenizer.decode([token]),
        )


def plots(campaign: Campaign) -> dict[str, bytes]:
    """The campaign's figures as SVG, by name."""
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        return figures.plots(database, campaign.name, standing.headline(database, campaign.name))
