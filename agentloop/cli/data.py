"""Commands about stored trajectories: choose what is trained on, score again, forget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agentloop.cli import choosing, ids
from agentloop.cli.common import (
    AsJson,
    Named,
    Overrides,
    Profile,
    console,
    load,
    reading,
    say,
    say_json,
    split,
    user_path,
    writing,
)
from agentloop.errors import StoreError

if TYPE_CHECKING:
    from agentloop.curation.selection import Funnel

BAR = 30
NAMED = 10
"""Near duplicates that are printed."""


def select(
    profile: Profile = None,
    overrides: Overrides = None,
    campaign: Named = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="rejection, replay, fresh, random, groups, pairs or a .sql file. Default: the campaign's own.",
        ),
    ] = None,
    iteration: Annotated[int | None, typer.Option(help="Default: the newest that collected.")] = None,
    size: Annotated[int | None, typer.Option(help="Rows, where the recipe asks for $size, as random does.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the rows for another trainer: to a .jsonl or .parquet file, or a dataset's directory."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write what each rule left as an .svg file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be chosen; store no dataset.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose trajectories of a campaign to train on, show what each rule removed, and store the dataset."""
    settings = load(profile, overrides)
    from agentloop.curation import export as exporting
    from agentloop.curation import export_dataset, recipes
    from agentloop.curation import selection as selecting
    from agentloop.store import campaigns, families

    if recipe and recipe.endswith(".sql"):
        recipe = str(user_path(recipe).absolute())
    export, plot = export and user_path(export), plot and user_path(plot)
    recipe = recipe or recipes.for_training(settings)
    loaded = recipes.load(recipe)
    if export:
        exporting.check(export)
    with reading(settings) if dry_run else writing(settings) as database:
        settings = choosing.of_a_campaign(database, settings, campaign, profile=profile, words=overrides)
        if iteration is None:
            iteration = campaigns.newest_iteration(database, settings.campaign)
        selected = selecting.select(
            database,
            recipe,
            settings.campaign,
            iteration,
            settings.selection,
            seed=settings.seed,
            size=size,
            save=not dry_run,
        )
        offer = families.offer(families.unsolved(database, settings.campaign))
    rows, written = len(selected.dataset.trajectories), None
    if export:
        with reading(settings) as database:
            if exporting.is_directory(export):
                written = export_dataset.write(
                    database,
                    selected,
                    export,
                    recipe=loaded,
                    campaign=settings.campaign,
                    iteration=iteration,
                    benchmarks=settings.selection.benchmarks,
                )
            else:
                written = exporting.export(database, selected.dataset.trajectories, export, paired=loaded.paired)
    if plot:
        from agentloop.files import atomic
        from agentloop.report import plots

        with atomic(plot) as temporary:
            temporary.write_bytes(plots.funnel(selected.funnel).file())
    if as_json:
        say_json(
            {
                "campaign": settings.campaign,
                "iteration": iteration,
                "recipe": recipe,
                "dataset": selected.dataset.id,
                "rows": rows,
                "stored": not dry_run,
                "funnel": [{"rule": rule, "left": left} for rule, left in selected.funnel],
                "near_duplicates": [
                    {"trajectory": trajectory, "earlier": earlier} for trajectory, earlier in selected.near_duplicates
                ],
                "offer": offer or None,
                "export": export and {"file": export, "pairs" if loaded.paired else "rows": written},
                "plot": plot,
            }
        )
        return
    console.print(_funnel_table(selected.funnel))
    for trajectory, earlier in selected.near_duplicates[:NAMED]:
        say(f"near duplicate: {trajectory} is nearly {earlier}")
    if offer:
        say(offer)
    say(f"{selected.dataset.id}: {rows:,} rows{', not stored (dry run)' if dry_run else ''}")
    if export:
        say(f"{export}: {written:,} {'pairs' if loaded.paired else 'rows'}")
    if plot:
        say(f"{plot}: what each rule left")


def rescore(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCORER|SECTION.NAME=VALUE",
            help="success (the environment's verifier), tokens, …, a registered verifier's name, a .sql or .py file. Default: "
            "success and all of agentloop's own. And settings.",
        ),
    ] = None,
    profile: Profile = None,
    campaign: Annotated[
        str | None, typer.Option("--campaign", metavar="NAME", help="Only what this campaign has collected.")
    ] = None,
    ask_again: Annotated[
        bool, typer.Option("--ask-again", help="Ask models that score anew; by default their stored replies count.")
    ] = False,
) -> None:
    """Score all stored trajectories again, without any inference."""
    named, overrides = split(words)
    settings = load(profile, overrides)
    from agentloop.campaign import rescore as scoring

    scorers = [str(user_path(name).absolute()) if Path(name).suffix in (".sql", ".py") else name for name in named]
    with writing(settings) as database:
        results = scoring.rescore(database, settings, scorers, campaign=campaign, ask_again=ask_again)
    table = Table("scorer", "version", "scored", "changed", "mean before", "mean now", box=None)
    for result in results:
        means = ("" if mean is None else f"{mean:.4g}" for mean in (result.before, result.after))
        table.add_row(result.scorer, str(result.version), f"{result.scored:,}", f"{result.changed:,}", *means)
    console.print(table)


def forget(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with the rows.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID", help="A task, by as much of its id as is enough: all of its trajectories, later ones too."
        ),
    ] = None,
    trajectory: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A trajectory, by as much of its id as is enough.")
    ] = None,
    overrides: Overrides = None,
    profile: Profile = None,
    campaign: Annotated[
        str | None, typer.Option("--campaign", metavar="NAME", help="Only ids of what this campaign has collected.")
    ] = None,
) -> None:
    """Keep rows out of training from now on, list what was trained on them, rebuild the datasets without them."""
    settings = load(profile, overrides)
    from agentloop.curation import forget as forgetting
    from agentloop.store import campaigns

    if not task and not trajectory:
        raise StoreError("forget: name at least one --task or --trajectory")
    with writing(settings) as database, database.transaction():
        if campaign is not None:
            campaigns.settings_json(database, campaign)  # an unknown campaign is an error
        trajectories, tasks = (
            [ids.whole(database, kind, each, campaign=campaign) for each in beginnings or ()]
            for kind, beginnings in (("trajectory", trajectory), ("task", task))
        )
        forgotten = forgetting.forget(database, trajectories=trajectories, tasks=tasks, reason=reason)
        rebuilt = {name: forgetting.rebuild(database, name) for name in forgotten.datasets}
    say(f"{len(forgotten.trajectories):,} trajectories are kept out of training")
    table = Table("touched", "", "", box=None)
    for name, dataset in rebuilt.items():
        left = f"without them: {dataset.id}, {len(dataset.trajectories):,} rows" if dataset else "nothing is left"
        table.add_row(name, "dataset", left)
    for name in forgotten.adapters:
        table.add_row(name, "adapter", "trained on such a dataset")
    for name in forgotten.descendants:
        table.add_row(name, "descendant", "continues such an adapter, or was trained on what it produced")
    console.print(table if table.row_count else "no dataset holds them")


def _funnel_table(funnel: Funnel) -> Table:
    table = Table("rule", "removed", "left", "", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    everything, before = max(funnel[0][1], 1), funnel[0][1]
    for rule, left in funnel:
        removed = f"{before - left:,}" if before > left else ""
        table.add_row(rule, removed, f"{left:,}", "█" * round(BAR * left / everything))
        before = left
    return table
