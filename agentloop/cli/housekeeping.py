"""`agentloop prune`: what may go from the disk, and its removal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from agentloop import sizes, space
from agentloop.cli.common import AsJson, Overrides, Profile, console, load, say, say_json
from agentloop.errors import SettingError, StoreError
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.housekeeping.plan import Plan
    from agentloop.housekeeping.rules import ShardChoice

_LEFT_SHOWN = 10
"""Lines about what is left alone; with --list all of them."""


def prune(
    overrides: Overrides = None,
    profile: Profile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it. Without: only say what would go.")] = False,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards",
            help="Also the tokens of collected shards, but for rows of datasets; with --campaign or --older-than, or both.",
        ),
    ] = False,
    campaign: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --shards: those of this campaign alone.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="With --shards: those that were collected earlier.")
    ] = None,
    paths: Annotated[bool, typer.Option("--list", help="Also every path.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the policy (retention.…) would remove from the disk, kind by kind; with --yes remove it. Evidence stays."""
    settings = load(profile, overrides)
    choice = _choice(shards, campaign, older_than)
    if not settings.paths.data.is_dir():
        raise StoreError(f"{settings.paths.data}: no data here yet (paths.data)")
    if yes:
        _remove(settings, choice, as_json=as_json)
        return
    from agentloop.campaign import lock
    from agentloop.housekeeping import plan

    owner = lock.owner(settings.paths.data)
    made = plan.look(settings, shards=choice)
    if as_json:
        say_json(_as_json(made, settings))
        return
    table = Table("kind", "files", "size", "which", box=None)
    for kind in made.kinds:
        table.add_row(kind.name, f"{kind.files:,}", sizes.said(kind.bytes), kind.rule)
    console.print(table)
    if paths:
        for each in (each for kind in made.kinds for each in (*kind.going, *kind.cut)):
            say(f"{each.path}  {sizes.said(each.bytes)}")
    _tell_left(made.left, everything=paths)
    there = f"{sizes.said(space.free(settings.paths.data))} are free at {settings.paths.data}"
    if not made.bytes:
        say(f"Nothing to remove; {there}.")
        return
    say(f"Nothing was removed. --yes removes {made.files:,} files and frees {sizes.said(made.bytes)}; {there}.")
    if owner is not None:
        say(f"At work on {settings.paths.data}: {owner}; --yes is refused until it has ended.")


def _choice(shards: bool, campaign: str | None, days: float | None) -> ShardChoice | None:
    from agentloop.housekeeping.rules import ShardChoice

    given = {"campaign": campaign, "older-than": days}
    if not shards:
        for name in (name for name, value in given.items() if value is not None):
            raise SettingError(f"--{name}: says which shards, and needs --shards")
        return None
    if campaign is None and days is None:
        raise SettingError("--shards: say which, with --campaign NAME or --older-than DAYS")
    if days is not None and not days >= 0:
        raise SettingError(f"--older-than: {days:g} is not a number of days")
    return ShardChoice(campaign, days)


def _remove(settings: Settings, choice: ShardChoice | None, *, as_json: bool) -> None:
    from agentloop.campaign.prune import prune as remove

    done = remove(settings, shards=choice, wait=False)
    if as_json:
        say_json(done)
        return
    for each in done["kinds"]:
        if each["entries"]:
            say(f"{each['kind']}: {each['files']:,} files, {sizes.said(each['bytes'])}")
    say(f"Removed {done['files']:,} files, {sizes.said(done['bytes'])}; {sizes.said(done['free'])} are free now.")


def _tell_left(left: tuple[tuple[Path, str], ...], *, everything: bool) -> None:
    shown = left if everything else left[:_LEFT_SHOWN]
    for path, reason in shown:
        say(f"Left alone: {path} ({reason})")
    if len(shown) < len(left):
        say(f"Left alone: {len(left) - len(shown)} more (--list)")


def _as_json(made: Plan, settings: Settings) -> dict[str, Any]:
    return {
        "kinds": [
            {
                "kind": kind.name,
                "rule": kind.rule,
                "entries": [{"path": str(each.path), "bytes": each.bytes} for each in (*kind.going, *kind.cut)],
                "files": kind.files,
                "bytes": kind.bytes,
            }
            for kind in made.kinds
        ],
        "left": [{"path": str(path), "reason": reason} for path, reason in made.left],
        "files": made.files,
        "bytes": made.bytes,
        "free": space.free(settings.paths.data),
    }
