"""`agentloop`: one thin command for each thing a person does.

Settings come from a profile, agentloop.toml, the environment and `section.name=value` words on the command line.
Anything a user can mend ends with one line on standard error and exit code 2.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from agentloop import settings as configuration
from agentloop.errors import AgentloopError, StoreError
from agentloop.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A tool-using Gemma 3n agent that improves on its tasks on one machine, with evidence.",
)
# Tables are made for 100 columns; where the output is no terminal there is no narrower one to respect.
console = Console(width=None if sys.stdout.isatty() else 120)

Profile = Annotated[str | None, typer.Option("--profile", "-p", help="Named defaults: demo, rtx3090.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.NAME=VALUE]...", help="Settings, for example training.rank=32."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved settings and what would be done; do nothing.")
]


def _load(profile: str | None, overrides: list[str] | None) -> Settings:
    settings = configuration.load(overrides or [], profile=profile)
    settings.export()
    return settings


@app.command()
def demo(
    new: Annotated[bool, typer.Option("--new", help="Start another campaign instead of continuing.")] = False,
    overrides: Overrides = None,
) -> None:
    """Run the deployment self-improve/demo on the local Prefect server and watch it."""
    from flows import demonstration, services

    settings = _load("demo", overrides)
    for line in services.up(settings):
        console.print(line)
    sys.exit(demonstration.run(settings, console, overrides=configuration.parse_overrides(overrides or []), new=new))


@app.command()
def run(profile: Profile = None, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run a campaign in this process, or continue it."""
    settings = _load(profile, overrides)
    from agentloop.campaign.outline import outline

    planned = outline(settings)
    if dry_run:
        console.print_json(settings.model_dump_json())
        console.print(planned)
        return
    from flows import foreground

    foreground.self_improve(settings, profile, overrides)
    _summary(settings)


@app.command("eval")
def evaluate(profile: Profile = None, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Measure the champion of a campaign on its held-out tasks."""
    settings = _load(profile, overrides)
    if dry_run:
        console.print_json(settings.model_dump_json())
        return
    from flows import foreground

    measured = foreground.evaluate(settings, profile, overrides)
    success = measured["success"]
    console.print(
        f"{measured['champion'] or 'base model'}: {success['estimate']:.1%} ({success['low']:.1%} to {success['high']:.1%})"
    )


@app.command()
def up(overrides: Overrides = None) -> None:
    """Start the local Prefect server and worker and deploy prefect.yaml."""
    from flows import services

    for line in services.up(_load(None, overrides)):
        console.print(line)


@app.command()
def down(overrides: Overrides = None) -> None:
    """End the Prefect server and worker that `up` or `demo` started, and nothing else."""
    from flows import services

    for line in services.down(_load(None, overrides)):
        console.print(line)


@app.command()
def doctor(overrides: Overrides = None, profile: Profile = None) -> None:
    """Versions, paths, memory, GPU, ports: what is missing and how to get it."""
    from agentloop import doctor as checks

    settings = _load(profile, overrides)
    table = Table("", "what", "found", "to do", box=None)
    results = checks.examine(settings)
    for check in results:
        table.add_row(
            "[green]ok" if check.ok else "[red]missing", check.what, check.found, "" if check.ok else check.remedy or ""
        )
    console.print(table)
    sys.exit(0 if all(check.ok for check in results) else 1)


@app.command()
def status(overrides: Overrides = None) -> None:
    """Campaigns, their champions, and the step that is running."""
    from agentloop.report import summary
    from agentloop.store.database import Database, snapshot

    settings = _load(None, overrides)
    with Database.open(snapshot(settings.paths.database), read_only=True) as database:
        console.print(summary.status_table(summary.status(database)))


@app.command()
def sql(
    query: str,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Query a snapshot of the database; works while a run is writing."""
    import duckdb

    from agentloop.store.database import Database, snapshot

    settings = _load(None, overrides)
    with Database.open(snapshot(settings.paths.database), read_only=True) as database:
        try:
            result = database.arrow(query)
        except duckdb.Error as error:
            raise StoreError(f"sql: {str(error).splitlines()[0]}") from None
    if as_json:
        for row in result.to_pylist():
            print(json.dumps(row, default=str))
        return
    table = Table(*result.column_names, box=None)
    for row in result.to_pylist():
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


@app.command()
def report(profile: Profile = None, overrides: Overrides = None) -> None:
    """Write a campaign's report and print its path."""
    from agentloop.campaign import reporting
    from agentloop.campaign.campaign import Campaign

    settings = _load(profile, overrides)
    print(reporting.write(Campaign.open(settings)))


@app.command()
def lineage(adapter: str, overrides: Overrides = None) -> None:
    """What made an adapter: base, dataset, rows, policies, settings, evaluations, verdict."""
    from agentloop.store.database import Database, snapshot
    from agentloop.store.lineage import lineage as trace

    settings = _load(None, overrides)
    with Database.open(snapshot(settings.paths.database), read_only=True) as database:
        console.print_json(json.dumps(trace(database, adapter), default=str))


@app.command()
def bootstrap(
    directory: Annotated[Path | None, typer.Argument(help="Default: tiny, under the models' root.")] = None,
    seed: int = 0,
) -> None:
    """Make the tiny base model again, from nothing."""
    settings = _load(None, None)
    from agentloop.tiny.bootstrap import bootstrap as make

    console.print(make(directory or settings.paths.models / "tiny", seed=seed))


def _summary(settings: Settings) -> None:
    from agentloop.report import summary
    from agentloop.store.database import Database, snapshot

    with Database.open(snapshot(settings.paths.database), read_only=True) as database:
        console.print(summary.table(summary.iterations(database, settings.campaign)))
    console.print(f"Report: {settings.paths.reports / settings.campaign}.html")


def main() -> None:
    try:
        app()
    except AgentloopError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
