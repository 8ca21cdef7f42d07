"""Commands about adapters that were made: who is champion, back to an earlier one, the same one made again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from agentloop.cli.common import Overrides, Profile, console, load, reading, split, writing
from agentloop.errors import SettingError


def champion(profile: Profile = None, overrides: Overrides = None) -> None:
    """Who is champion of a campaign, and who was: every move of the pointer with its reason."""
    settings = load(profile, overrides)
    from agentloop.campaign.rollback import BASE
    from agentloop.store import campaigns, champions

    with reading(settings) as database:
        campaigns.settings_json(database, settings.campaign)  # an unknown campaign is an error
        moves = champions.moves(database, settings.campaign)
    now = moves[-1].adapter if moves else None
    console.print(f"Champion of campaign {settings.campaign}: [bold]{now or 'the base model'}[/bold]")
    if not moves:
        return
    table = Table("", "moved (UTC)", "iteration", "to", "by", "reason", box=None)
    for move in moves:
        by = "gate" if move.verdict else "rollback"
        moved = f"{move.moved:%Y-%m-%d %H:%M}"
        table.add_row(str(move.number), moved, str(move.iteration), move.adapter or BASE, by, move.reason)
    console.print(table)


def rollback(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADAPTER|base] [SECTION.NAME=VALUE]...",
            help="An earlier champion or the base model; default: whom the champion replaced.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "rolled back by hand",
    profile: Profile = None,
) -> None:
    """Make an earlier champion, or the base model, champion again; the next iteration starts from it."""
    named, overrides = split(words)
    if len(named) > 1:
        raise SettingError(f"rollback: one adapter at a time, not {' and '.join(named)}")
    settings = load(profile, overrides)
    from agentloop.campaign import rollback as pointer
    from agentloop.campaign.lock import owned

    with owned(settings.paths.data, wait=False), writing(settings) as database:
        before, after = pointer.roll_back(database, settings.campaign, named[0] if named else None, reason=reason)
    console.print(
        f"Champion of campaign {settings.campaign}: [bold]{after or 'the base model'}[/bold] "
        f"(it was {before or 'the base model'})"
    )


def reproduce(adapter: str, profile: Profile = None, overrides: Overrides = None) -> None:
    """Train an adapter again from its stored rows and settings; exit code 1 where the weights are not the same."""
    settings = load(profile, overrides)
    from agentloop.campaign.reproduce import reproduce as train_again

    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("training again", total=None)
        made = train_again(
            settings,
            adapter,
            on_step=lambda metrics: progress.update(bar, total=metrics["steps"], completed=metrics["step"]),
        )
    console.print(
        f"{adapter}: trained again on {made.rows:,} rows of {made.adapter.dataset}, seed {made.adapter.seed}, "
        f"code {made.adapter.code}{' (this is other code)' if made.other_code else ''}"
    )
    if made.same:
        console.print(f"The same weights, bit for bit: {made.tensors} tensors, the largest weight {made.scale:.3g}.")
        return
    console.print(
        f"Other weights: {len(made.different)} of {made.tensors} tensors differ, by {made.largest:.3g} at most, "
        f"where the largest weight is {made.scale:.3g}."
    )
    sys.exit(1)
