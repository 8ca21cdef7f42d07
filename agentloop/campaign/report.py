"""The campaign's report, from a snapshot of the database."""

from __future__ import annotations

from pathlib import Path

from agentloop.campaign import needs, results
from agentloop.campaign.campaign import Campaign
from agentloop.model_directory.tokenizer import load_tokenizer
from agentloop.report import page
from agentloop.report import plots as figures
from agentloop.settings import Settings
from agentloop.store.database import Database


def write(settings: Settings, output: Path | None = None) -> Path:
    """Write the campaign's HTML page, also while a run is at work, and return its path: by default among the reports.

    Nothing else is written. Raises DiskError where the page cannot be.
    """
    paths = settings.paths
    model = settings.model_directory()
    page_file = output or paths.reports / f"{settings.campaign}.html"
    needs.report(settings, page_file)
    with Database.open_snapshot(paths.database) as database:
        tokenizer = load_tokenizer(model)
        return page.write(
            database,
            settings.campaign,
            results.headline(database, settings.campaign),
            paths.shards,
            page_file,
            decode=lambda token: tokenizer.decode([token]),
        )


def plots(campaign: Campaign) -> dict[str, bytes]:
    """The campaign's figures as SVG, by name."""
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        return figures.plots(database, campaign.name, results.headline(database, campaign.name))
