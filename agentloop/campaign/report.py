"""The campaign's report, from a snapshot of the database, and the index of all campaigns beside it."""

from __future__ import annotations

from pathlib import Path

from agentloop.campaign import lock, needs, results, standing
from agentloop.campaign.campaign import Campaign
from agentloop.model_directory.tokenizer import token_texts
from agentloop.report import overview, page, sinks
from agentloop.report import plots as figures
from agentloop.report.page import Sources
from agentloop.roots import writable
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database


class Writer:
    """Writes the pages of one campaign, as often as asked; the tokenizer is loaded once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        paths = settings.paths
        cache = paths.cache / "report" if writable(paths.cache) else None
        self._sources = Sources(paths.shards, token_texts(settings.model_directory()), cache)

    def write(self, output: Path | None = None, *, refresh: float = 0.0, iterations: range | None = None) -> Path:
        """Write the campaign's page, and where it goes among the reports, the index; return the page's path.

        With `refresh` the page reads itself anew after so many seconds; with `iterations` it holds their trajectories instead
        of the newest. Nothing else is written. Raises StoreError,
        ShardError, and DiskError where the page cannot be written.
        """
        paths, name = self._settings.paths, self._settings.campaign
        needs.report(self._settings, output or path(self._settings))
        owner = lock.owner(paths.data)
        with Database.open_snapshot(paths.database) as database:
            written = page.write(
                database,
                name,
                results.headline(database, name),
                self._sources,
                output or path(self._settings),
                state=standing.state(database, name, paths, owner),
                refresh=refresh,
                index=output is None,
                iterations=iterations,
            )
            if output is None:
                overview.write(database, paths.reports, at_work=owner.campaign if owner else None)
        return written


def can_be_written(settings: Settings) -> bool:
    """Return False where the database knows nothing of the campaign: its first run was refused before it began."""
    if not settings.paths.database.is_file():
        return False
    with Database.open_snapshot(settings.paths.database) as database:
        return settings.campaign in campaigns.names(database)


def path(settings: Settings) -> Path:
    """Return where the page of the campaign is by default."""
    return settings.paths.reports / page.file_name(settings.campaign)


def write(settings: Settings, output: Path | None = None, iterations: range | None = None) -> Path:
    """Write the campaign's HTML page, also while a run is at work, and return its path: by default among the reports.

    It holds the newest trajectories, as many as a browser opens at once, or those of some `iterations`. The index and the
    sinks are brought up to date with a page among the reports. Raises as `Writer.write` does, and SettingError for a sink
    whose package is not installed.
    """
    sinks.require(settings.report.sinks)
    written = Writer(settings).write(output, iterations=iterations)
    if output is None:
        tell(settings)
    return written


def tell(settings: Settings) -> None:
    """Bring the sinks of report.sinks up to date."""
    paths = settings.paths
    if settings.report.sinks:
        with Database.open_snapshot(paths.database) as database:
            sinks.update(
                settings.report.sinks,
                database,
                settings.campaign,
                data=paths.data,
                checkpoints=paths.checkpoints,
                report=path(settings),
            )


def plots(campaign: Campaign) -> dict[str, bytes]:
    """The campaign's figures as SVG, by name."""
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        return figures.plots(database, campaign.name, results.headline(database, campaign.name))
