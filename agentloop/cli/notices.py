"""The command about being told."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentloop.cli.common import Overrides, load, reading, say
from agentloop.settings import Settings

NEWEST = 5


def notify(
    overrides: Overrides = None,
    test: Annotated[bool, typer.Option("--test", help="Send a notice on every way now, and say what arrived.")] = False,
) -> None:
    """Say on which ways you are told of runs, and what was told last; --test tries them. Exit code 1 where one fails."""
    settings = load(None, overrides)
    sys.exit(_test(settings) if test else _show(settings))


def _test(settings: Settings) -> int:
    from agentloop_flows import rehearsal

    outcomes = rehearsal.notices(settings)
    for each in outcomes:
        say(f"{each.way}: {each.fault or 'arrived'}")
    if not outcomes:
        say(_NOTHING)
    return 1 if not outcomes or any(each.fault for each in outcomes) else 0


_NOTHING = "Nobody is told: set notify.command, notify.webhook_file or notify.block (docs/notices.md)."


def _show(settings: Settings) -> int:
    from agentloop.notices import addresses
    from agentloop.store import notices

    notify = settings.notify
    ways = ["command"] if notify.command else []
    ways += [addresses.name(each) for each in addresses.addresses(notify)]
    ways += [f"Prefect's block {notify.block}"] if notify.block else []
    say(f"Told of {', '.join(notify.on) or 'nothing'} through {', '.join(ways)}." if ways else _NOTHING)
    if settings.paths.database.is_file():
        with reading(settings) as database:
            newest = notices.newest(database, NEWEST)
        for each in reversed(newest):
            say(f"{each.made:%Y-%m-%d %H:%M} UTC  {each.line}")
            say("".join(f"    {fault}\n" for fault in each.failed).rstrip() or f"    {_became(each.arrived)}")
    return 0


def _became(arrived: tuple[str, ...] | None) -> str:
    return "not sent" if arrived is None else f"told through {', '.join(arrived)}" if arrived else "nobody was told"
