"""Commands about adapters that were made: who is champion, back to an earlier one, the same one made again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
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
    writing,
)
from agentloop.errors import SettingError

if TYPE_CHECKING:
    from agentloop.store.champions import Move


def champion(
    profile: Profile = None, overrides: Overrides = None, campaign: Named = None, as_json: AsJson = False
) -> None:
    """Show who is champion of a campaign, and who was: every change with its reason."""
    settings = load(profile, overrides)
    from agentloop.campaign.rollback import BASE
    from agentloop.store import champions

    with reading(settings) as database:
        settings = choosing.of_a_campaign(database, settings, campaign, profile=profile, words=overrides)
        moves = champions.moves(database, settings.campaign)
    now = moves[-1].adapter if moves else None
    if as_json:
        say_json({"campaign": settings.campaign, "champion": now, "moves": [_move(each) for each in moves]})
        return
    say(f"Champion of campaign {settings.campaign}: {now or 'the base model'}")
    if not moves:
        return
    table = Table("", "moved (UTC)", "iteration", "to", "by", "reason", box=None)
    for move in moves:
        moved = f"{move.moved:%Y-%m-%d %H:%M}"
        table.add_row(str(move.number), moved, str(move.iteration), move.adapter or BASE, _by(move), move.reason)
    console.print(table)


def _move(move: Move) -> dict[str, Any]:
    names = ("number", "moved", "iteration", "adapter", "verdict", "reason")
    return {name: getattr(move, name) for name in names} | {"by": _by(move)}


def _by(move: Move) -> str:
    return "gate" if move.verdict else "rollback"


def rollback(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ADAPTER|base|SECTION.NAME=VALUE",
            help="An earlier champion's id, as much of it as is enough, or base. Default: whom the champion replaced. "
            "And settings.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Kept in the history.")] = "rolled back by hand",
    profile: Profile = None,
    campaign: Named = None,
) -> None:
    """Make an earlier champion, or the base model, champion again; the next iteration starts from it."""
    named, overrides = split(words)
    if len(named) > 1:
        raise SettingError(f"rollback: one adapter at a time, not {' and '.join(named)}")
    settings = load(profile, overrides)
    from agentloop.campaign import rollback as pointer
    from agentloop.campaign.lock import owned
    from agentloop.store import champions

    with owned(settings.paths.data, wait=False), writing(settings) as database:
        settings = choosing.of_a_campaign(database, settings, campaign, profile=profile, words=overrides)
        target = named[0] if named else None
        if target not in (None, pointer.BASE):
            earlier = [move.adapter for move in champions.moves(database, settings.campaign) if move.adapter]
            target = ids.only("adapter", target, earlier) or target
        before, after = pointer.roll_back(database, settings.campaign, target, reason=reason)
    say(f"Champion of campaign {settings.campaign}: {after or 'the base model'} (it was {before or 'the base model'})")


def reproduce(
    adapter: Annotated[str, typer.Argument(help="The adapter's id, or as much of it as is enough.")],
    profile: Profile = None,
    overrides: Overrides = None,
) -> None:
    """Train an adapter again from its stored rows and settings: are the weights the same? Exit code 1 where they are not.

    Weights that were pruned are put back.
    """
    settings = load(profile, overrides)
    with reading(settings) as database:
        adapter = ids.whole(database, "adapter", adapter)
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
    if made.same and made.put_back:
        console.print(f"The same weights, bit for bit, as those that were pruned; they are in {made.put_back} again.")
        return
    if made.same:
        console.print(f"The same weights, bit for bit: {made.tensors} tensors, the largest weight {made.scale:.3g}.")
        return
    if made.largest is None:
        console.print("Other weights than those that were pruned, and so not put back.")
        sys.exit(1)
    console.print(
        f"Other weights: {len(made.different)} of {made.tensors} tensors differ, by {made.largest:.3g} at most, "
        f"where the largest weight is {made.scale:.3g}."
    )
    sys.exit(1)
