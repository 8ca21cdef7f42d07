"""Commands that run campaigns, here or on the local Prefect server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentloop import settings as configuration
from agentloop.cli import models
from agentloop.cli.common import DryRun, Overrides, Profile, console, load, reading
from agentloop.errors import ServerError
from agentloop.settings import Settings


def demo(
    new: Annotated[bool, typer.Option("--new", help="Start another campaign instead of continuing.")] = False,
    overrides: Overrides = None,
    model: Annotated[
        str,
        typer.Option(help="tiny, which comes with agentloop, or gemma-3-270m: a real one, fetched and taught first."),
    ] = "tiny",
    accept: Annotated[bool, typer.Option("--accept", help="Say yes to the model's licence beforehand.")] = False,
) -> None:
    """Run a demonstration's deployments on the local Prefect server and watch them."""
    from agentloop.fetching import gemma
    from agentloop_flows import demonstration, services

    profile = demonstration.profile(model)
    settings = load(profile, overrides)
    if model == gemma.NAME:
        models.fetch_gemma(settings, accept=accept)
    settings.export()
    for line in services.up(settings):
        console.print(line)
    values = configuration.parse_overrides(overrides or [])
    sys.exit(demonstration.run(settings, console, profile=profile, overrides=values, new=new))


def run(profile: Profile = None, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run a campaign in this process, or continue it."""
    settings = load(profile, overrides)
    from agentloop.campaign.outline import outline

    planned = outline(settings)
    if dry_run:
        console.print_json(settings.model_dump_json())
        console.print(planned)
        return
    from agentloop_flows import foreground

    settings.export()
    foreground.self_improve(settings, profile, overrides)
    _summary(settings)


def evaluate(
    profile: Profile = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="On tasks that no verdict was based on, and the base model as well.")
    ] = False,
) -> None:
    """Measure the champion of a campaign on its held-out tasks."""
    settings = load(profile, overrides)
    from agentloop.campaign.outline import outline

    outline(settings)  # what it finds wrong is said before anything starts
    if dry_run:
        console.print_json(settings.model_dump_json())
        return
    from agentloop_flows import foreground

    settings.export()
    measured = foreground.evaluate(settings, profile, overrides, unseen=unseen)
    if "base" in measured:
        _print_success("base model", measured["base"])
    _print_success(measured["champion"] or "base model", measured["success"])


def up(overrides: Overrides = None) -> None:
    """Start the local Prefect server and worker and deploy prefect.yaml."""
    from agentloop_flows import services

    settings = load(None, overrides)
    settings.export()
    for line in services.up(settings):
        console.print(line)


def down(overrides: Overrides = None) -> None:
    """End the Prefect server and worker that `up` or `demo` started, and nothing else."""
    from agentloop_flows import services

    for line in services.down(load(None, overrides)):
        console.print(line)


def reconcile(overrides: Overrides = None) -> None:
    """End the runs in Prefect whose process is gone: they can be retried then and hold up no other run."""
    from agentloop_flows import reconcile, services

    settings = load(None, overrides)
    if not services.is_up(settings):
        raise ServerError("the Prefect server is not up; agentloop up starts it, and reconciles")
    for line in reconcile.run(settings) or ["nothing to do"]:
        console.print(line)


def _print_success(policy: str, success: dict[str, float]) -> None:
    console.print(f"{policy}: {success['estimate']:.1%} ({success['low']:.1%} to {success['high']:.1%})")


def _summary(settings: Settings) -> None:
    from agentloop.campaign import results
    from agentloop.report import summary

    with reading(settings) as database:
        console.print(summary.table(results.iterations(database, settings.campaign)))
    console.print(f"Report: {settings.paths.reports / settings.campaign}.html")
