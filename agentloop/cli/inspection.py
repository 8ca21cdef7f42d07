"""Commands that show what is stored, while a run is writing as well."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentloop.cli import choosing, ids
from agentloop.cli.common import Named, Overrides, Profile, console, load, reading, say_json, user_path
from agentloop.errors import SettingError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from agentloop.store.database import Database


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT of DuckDB. The tables and views: docs/data.md.")],
    overrides: Overrides = None,
    profile: Profile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Ask the database anything, while a run is writing as well; a pipe gets the values separated by tabs."""
    import duckdb

    settings = load(profile, overrides)
    with reading(settings) as database:
        try:
            result = _answer(database, query)
        except duckdb.Error as error:
            raise StoreError(f"sql: {database.said(error)}") from None
    if not result.column_names:
        raise StoreError("sql: the statement has no result; a query begins with SELECT or FROM")
    from agentloop.cli import rows

    if as_json or not sys.stdout.isatty():
        for line in rows.for_a_program(result) if as_json else rows.for_a_pipe(result):
            print(line)
        return
    for shown in rows.for_a_terminal(result, console.width):
        console.print(shown)


def _answer(database: Database, query: str) -> pa.Table:
    """The result of a query, which Ctrl-C ends: DuckDB looks for it in some statements only."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(database.arrow, query)
        try:
            return asked.result()
        except KeyboardInterrupt:
            database.connection.interrupt()
            raise


def report(
    profile: Profile = None,
    overrides: Overrides = None,
    campaign: Named = None,
    output: Annotated[
        Path | None, typer.Option(help="The file to write. Default: reports/CAMPAIGN.html in the data root.")
    ] = None,
    iterations: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST-LAST",
            help="Hold the trajectories of these iterations, instead of the newest that fit into a page. Default file: "
            "reports/CAMPAIGN_FIRST-LAST.html.",
        ),
    ] = None,
) -> None:
    """Write a campaign's report, one HTML file that needs no network, and print its path."""
    settings = load(profile, overrides)
    wanted = _span(iterations) if iterations else None
    from agentloop.campaign import report as reporting
    from agentloop.store import campaigns

    with reading(settings) as database:
        settings = choosing.of_a_campaign(database, settings, campaign, profile=profile, words=overrides)
        model = campaigns.settings_json(database, settings.campaign)["model"]
    if not any(
        word.startswith("model=") for word in overrides or ()
    ):  # its tokens are those of the model it was run with
        settings = settings.model_copy(update={"model": model})
    to = user_path(output) if output else None
    if wanted and to is None:
        usual = reporting.path(settings)
        to = usual.with_name(f"{settings.campaign}_{wanted[0]}-{wanted[-1]}.html")
    print(reporting.write(settings, to, wanted))


def _span(text: str) -> range:
    """The iterations of `3-7` or `3`."""
    first, dash, last = text.partition("-")
    try:
        found = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = range(0)
    if not found or found[0] < 0:
        raise SettingError(f"--iterations: {text!r} is no span of iterations such as 3-7, or 3")
    return found


def lineage(
    adapter: Annotated[str, typer.Argument(help="The adapter's id, or as much of it as is enough.")],
    overrides: Overrides = None,
    profile: Profile = None,
    campaign: Annotated[
        str | None, typer.Option("--campaign", metavar="NAME", help="Only an adapter that this campaign made.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Every trajectory that it was trained on, a line each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON; with --rows a list of them.")] = False,
) -> None:
    """Show what made an adapter and what became of it: base, dataset, policies, settings, evaluations, verdict."""
    settings = load(profile, overrides)
    from agentloop.report import story
    from agentloop.store import campaigns
    from agentloop.store import lineage as stored

    with reading(settings) as database:
        if campaign is not None:
            campaigns.settings_json(database, campaign)  # an unknown campaign is an error
        adapter = ids.whole(database, "adapter", adapter, campaign=campaign)
        if rows:
            _tell_rows(stored.rows(database, adapter), as_json=as_json)
            return
        told = stored.lineage(database, adapter)
    if as_json:
        say_json(told)
    else:
        console.print(story.tree(told))


def _tell_rows(trained_on: list[dict[str, Any]], *, as_json: bool) -> None:
    from agentloop.report import story

    if as_json:
        say_json(trained_on)
        return
    for row in trained_on:
        print(*(row[name] or story.BASE for name in ("trajectory", "task", "adapter", "shard", "question")), sep="\t")
