"""Commands that show what there is, while a run is writing as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agentloop.cli.common import Overrides, Profile, console, load, reading, user_path
from agentloop.errors import StoreError


def status(overrides: Overrides = None) -> None:
    """The link to Prefect's UI, campaigns, their champions, and the step that is running."""
    from agentloop.campaign import lock
    from agentloop.report import summary
    from agentloop_flows import connection, services

    settings = load(None, overrides)
    if services.is_up(settings):
        print(f"Prefect UI, opened by this link: {connection.entrance(settings)}")
    owner = lock.owner(settings.paths.data)
    with reading(settings) as database:
        console.print(summary.status_table(summary.status(database, owner and owner.campaign)))


def sql(
    query: str,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Query a snapshot of the database; works while a run is writing."""
    import duckdb

    settings = load(None, overrides)
    with reading(settings) as database:
        try:
            result = database.arrow(query)
        except duckdb.Error as error:
            raise StoreError(f"sql: {database.said(error)}") from None
    if not result.column_names:
        raise StoreError("sql: the statement has no result; a query begins with SELECT or FROM")
    if as_json:
        for row in result.to_pylist():
            print(json.dumps(row, default=str))
        return
    table = Table(*result.column_names, box=None)
    for row in result.to_pylist():
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


def report(
    profile: Profile = None,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write it, by default among the reports of paths.data.")
    ] = None,
) -> None:
    """Write a campaign's report and print its path."""
    settings = load(profile, overrides)
    from agentloop.campaign import report as reporting

    print(reporting.write(settings, output and user_path(output)))


def lineage(
    adapter: str,
    overrides: Overrides = None,
    rows: Annotated[bool, typer.Option("--rows", help="Every trajectory that it was trained on, a line each.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What made an adapter and what became of it: base, dataset, policies, settings, evaluations, verdict."""
    from agentloop.report import story
    from agentloop.store import lineage as stored

    settings = load(None, overrides)
    with reading(settings) as database:
        told = stored.rows(database, adapter) if rows else stored.lineage(database, adapter)
    if as_json:
        print(json.dumps(told, default=str, indent=None if rows else 2))
    elif rows:
        for row in told:
            print(
                *(row[name] or story.BASE for name in ("trajectory", "task", "adapter", "shard", "question")), sep="\t"
            )
    else:
        console.print(story.tree(told))
