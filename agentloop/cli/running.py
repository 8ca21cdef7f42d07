"""Commands that run campaigns, here or on the local Prefect server."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from agentloop import settings as configuration
from agentloop.cli import choosing, machine, models
from agentloop.cli.common import DryRun, Overrides, Profile, console, load, reading, say
from agentloop.cli.models import Accept
from agentloop.errors import ServerError, SettingError
from agentloop.settings import Settings

MADE = "tiny-textworld"
"""The demo's model that is made on this machine where it is missing."""


def demo(
    new: Annotated[
        bool,
        typer.Option("--new", help="Begin another campaign beside the one that is there, instead of continuing it."),
    ] = False,
    overrides: Overrides = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="tiny|tiny-textworld|gemma-3-270m",
            help="tiny comes with agentloop; tiny-textworld plays TextWorld, and is made first; gemma-3-270m is a real one, "
            "fetched and taught first.",
        ),
    ] = "tiny",
    accept: Accept = False,
) -> None:
    """See the whole loop at work on a small model, on the local Prefect server: about ten minutes on two cores."""
    from agentloop.fetching import gemma
    from agentloop_flows import demonstration, services

    profile = demonstration.profile(model)
    settings = load(profile, overrides)
    if model == gemma.NAME:
        models.fetch_gemma(settings, accept=accept)
    settings.export()
    if model == MADE and not (settings.paths.models / model / "config.json").exists():
        machine.make_tiny(settings.paths.models / model, model)
    for line in services.up(settings):
        say(line)
    values = configuration.parse_overrides(overrides or [])
    screen = Console(width=console.width)  # what it says has markup in it
    sys.exit(demonstration.run(settings, screen, profile=profile, overrides=values, new=new))


def run(
    profile: Profile = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    more: Annotated[
        bool,
        typer.Option(
            "--more", help="Add `iterations` to those that the campaign has, instead of having so many in all."
        ),
    ] = False,
) -> None:
    """Run a campaign in this process, or continue it: collect, select, train, evaluate, promote, and again."""
    settings = load(profile, overrides)
    from agentloop.campaign import nights, outline

    aimed = nights.with_more(settings) if more else settings
    planned = outline.outline(aimed)
    if dry_run:
        console.print_json(aimed.model_dump_json())
        say(planned)
        say(outline.prospect(aimed))
        return
    from agentloop_flows import foreground

    settings.export()
    foreground.self_improve(settings, profile, overrides, more=more)
    _summary(settings)


def evaluate(
    profile: Profile = None,
    overrides: Overrides = None,
    campaign: Annotated[
        str | None,
        typer.Option(
            "--campaign",
            metavar="NAME",
            help="A campaign that is there, with the settings that define it. Default: what the settings say, as for run.",
        ),
    ] = None,
    dry_run: DryRun = False,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="On tasks that no verdict was based on, and the base model as well.")
    ] = False,
) -> None:
    """Measure the champion of a campaign on its held-out tasks; before the first run, the base model."""
    settings = load(profile, overrides)
    if campaign is not None:
        overrides = _as_it_was_run(settings, campaign, overrides)
        settings = load(profile, overrides)
    from agentloop.campaign import outline

    outline.check(settings)  # what it finds wrong is said before anything starts
    if dry_run:
        console.print_json(settings.model_dump_json())
        say(_would_measure(settings, unseen=unseen))
        return
    from agentloop_flows import foreground

    settings.export()
    measured = foreground.evaluate(settings, profile, overrides, unseen=unseen)
    if "base" in measured:
        _print_success("base model", measured["base"])
    _print_success(measured["champion"] or "base model", measured["success"])


def up(
    overrides: Overrides = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Deploy prefect.yaml as it is, also what was changed in Prefect's UI.")
    ] = False,
    install: Annotated[
        bool, typer.Option("--install", help="And have them started after every reboot, by systemd units of this user.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Instead: end them, and remove the units that --install has written.")
    ] = False,
) -> None:
    """Start the local Prefect server and worker, so that campaigns can be run from its UI and on a schedule.

    Schedules and parameters that were changed in the UI stay. With --install, exit code 1 where there is no systemd; how to do
    without it is said.
    """
    from agentloop_flows import connection, services, units

    if install and uninstall:
        raise SettingError("--install: and --uninstall as well; say one of them")
    settings = load(None, overrides)
    if uninstall:
        for line in [*services.down(settings), *units.uninstall(settings)]:
            say(line)
        return
    settings.export()
    if install and (theirs := connection.users(settings)):
        raise SettingError(
            f"--install: the units start this project's own server, but PREFECT_API_URL or a Prefect profile names {theirs.url}"
        )
    if install and not units.manager_answers():
        for line in units.without_systemd(overrides or []):
            say(line)
        sys.exit(1)
    if install:
        for line in [*services.down(settings), *units.install(settings, overrides or [])]:
            say(line)
    for line in services.up(settings, reset=reset):
        say(line)


def down(overrides: Overrides = None) -> None:
    """End the Prefect server and worker that `up`, `demo` or `run` started, and nothing else."""
    from agentloop_flows import services

    for line in services.down(load(None, overrides)):
        say(line)


def reconcile(overrides: Overrides = None) -> None:
    """End the runs that Prefect shows as running and whose process is gone, so that they can be retried."""
    from agentloop_flows import reconcile, services

    settings = load(None, overrides)
    if not services.is_up(settings):
        raise ServerError("the Prefect server is not up; agentloop up starts it, and reconciles")
    for line in reconcile.run(settings) or ["nothing to do"]:
        say(line)


def _as_it_was_run(settings: Settings, campaign: str, overrides: list[str] | None) -> list[str]:
    """The words that measure this campaign: its own settings, then those of the command line."""
    named = settings.campaign if choosing.said(overrides) else campaign
    if named != campaign:
        raise SettingError(f"--campaign: {campaign}, and campaign={named} as well; name one")
    with reading(settings) as database:
        return [*choosing.as_it_was_run(database, campaign), *(overrides or [])]


def _would_measure(settings: Settings, *, unseen: bool) -> str:
    from agentloop.campaign import suites
    from agentloop.store import campaigns, champions

    champion = None
    if settings.paths.database.is_file():
        with reading(settings) as database:
            campaigns.refuse(database, settings)
            champion = champions.champion(database, settings.campaign)
    who = champion or "the base model"
    if unseen:
        who += " and the base model" if champion else ""
        suites.unseen(settings, suites.planned_looks(settings)[-1])  # where there are too few, that is said
    kind = "unseen" if unseen else "held-out"
    tasks, samples = settings.evaluate.tasks, settings.evaluate.samples
    return f"Measure {who} of campaign {settings.campaign} on {tasks} {kind} tasks x {samples} episodes."


def _print_success(policy: str, success: dict[str, float]) -> None:
    say(f"{policy}: {success['estimate']:.1%} ({success['low']:.1%} to {success['high']:.1%})")


def _summary(settings: Settings) -> None:
    from agentloop.campaign import report, results
    from agentloop.report import summary

    with reading(settings) as database:
        console.print(summary.table(results.iterations(database, settings.campaign)))
    say(f"Report: {report.path(settings)}")
