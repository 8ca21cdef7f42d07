"""Commands about what vLLM serves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agentloop.cli import ids
from agentloop.cli.common import Overrides, Profile, console, load, reading, user_path
from agentloop.errors import AdapterError
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.serving.canary import CanaryReport


def canary(
    adapter: Annotated[str, typer.Argument(help="An adapter's id, as much of it as is enough, or its directory.")],
    overrides: Overrides = None,
    profile: Profile = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A vLLM that serves it already, under its directory's name. Default: one is started."
        ),
    ] = None,
    api_key: Annotated[str, typer.Option(envvar="VLLM_API_KEY", help="The key of that vLLM.")] = "",
) -> None:
    """Is the adapter served as it was trained? Compares log probabilities, token by token. Exit code 1 where it is not."""
    settings = load(profile, overrides)
    directory = _directory(settings, adapter)
    from agentloop.campaign import canary as canaries
    from agentloop.campaign.campaign import Campaign
    from agentloop.serving import adapters

    campaign = Campaign.open(settings)
    adapters.check_base(directory, fingerprint=campaign.base, model=campaign.model)
    if url:
        reports = {url: canaries.inspect_running(settings.serving, url, api_key, directory)}
        judged = url
    else:
        reports = dict(canaries.inspect_bases(campaign, directory.name, directory))
        judged = settings.serving.base if settings.serving.base in reports else "original"
    console.print(_table(reports))
    for name, report in reports.items():
        print(f"{name}: {_verdict(report)}{'' if name == judged else ' (for comparison)'}")
    sys.exit(0 if reports[judged].passed else 1)


def _directory(settings: Settings, adapter: str) -> Path:
    for directory in (settings.paths.adapters / adapter, user_path(adapter)) if adapter else ():
        if directory.is_dir():
            return directory.resolve()
    there = [each.name for each in settings.paths.adapters.glob("*") if each.is_dir()]
    if found := ids.only("adapter", adapter, there):
        return (settings.paths.adapters / found).resolve()
    if adapter and settings.paths.database.is_file():
        from agentloop.store import adapters, pruned

        with reading(settings) as database:
            gone = pruned.adapters(database)
        if found := ids.only("adapter", adapter, list(gone)):
            raise AdapterError(adapters.gone(found, gone[found]))
    raise AdapterError(f"{adapter}: neither an adapter in {settings.paths.adapters} nor a directory")


def _table(reports: dict[str, CanaryReport]) -> Table:
    names = ("Base served", "Base: mean", "largest", "Adapter: mean", "largest", "Effect of it", "served", "Tolerance")
    table = Table(
        *names, title="Served against trained log probabilities, in nats per token", title_justify="left", box=None
    )
    for name, report in reports.items():
        figures = (report.base_mean, report.base_max, report.adapter_mean, report.adapter_max, report.effect_mean)
        share = "unknown" if report.share is None else f"{report.share:.0%}"
        table.add_row(name, *(f"{figure:.2g}" for figure in figures), share, f"{report.tolerance:.2g}")
    return table


def _verdict(report: CanaryReport) -> str:
    if report.passed and report.share is None:
        return "served as trained, as far as can be told: the adapter changes no more than rounding does"
    return report.fault or "served as trained"
