"""The command that makes a base the loop can improve, from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agentloop.cli.common import DryRun, Overrides, Profile, console, load, say, user_path
from agentloop.errors import SettingError


def teach(
    profile: Profile = None,
    overrides: Overrides = None,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Who demonstrates: experts (the environment's own), a .jsonl file of messages, stored (successes that are in "
            "the database), or a teacher's URL.",
        ),
    ] = "experts",
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Demonstrate only this family of tasks; may be given several times."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the directory that is made, under the models' root. Default: one by its content.",
        ),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option("--unverified", help="From a file: teach also what answers no question of the environment."),
    ] = False,
    measured: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Play held-out tasks before and after. The same command with --measure does it later.",
        ),
    ] = True,
    dry_run: DryRun = False,
) -> None:
    """Make a base that solves some of its tasks, from a few demonstrations, where the loop has nothing to begin with."""
    settings = load(profile, overrides)
    if name is not None and (name in ("", ".", "..") or "/" in name or name.startswith(".")):
        raise SettingError(f"--name: {name!r} is not the name of a directory")
    if not source.startswith(("http://", "https://")):
        source = str(user_path(source))
        source = str(Path(source).absolute()) if Path(source).exists() else source
    from agentloop.campaign import outline
    from agentloop.teaching.source import parse

    outline.check(settings)  # what it finds wrong is said before anything starts
    if unverified and parse(source).kind != "messages":
        raise SettingError("--unverified: is about --from a file; everything else is judged by the environment")
    if dry_run:
        console.print_json(settings.model_dump_json())
        say(f"Teach {settings.model_directory()} the tasks of {settings.environment}, from {parse(source)}")
        return
    from agentloop_flows import foreground

    settings.export()
    made = foreground.teach(
        settings,
        profile,
        overrides,
        source=source,
        families=family or [],
        unverified=unverified,
        name=name,
        measured=measured,
    )
    _tell(made)


def _tell(made: Mapping[str, Any]) -> None:
    demonstrations, measured = made["demonstrations"], made["measured"]
    table = Table("Family", "Accepted", "Before", "After", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    shares = measured["families"] if measured else {}
    for family in sorted(shares.keys() | demonstrations["families"].keys()):
        accepted, tried = demonstrations["families"].get(family, (0, 0))
        before, after = shares.get(family, (None, None))
        table.add_row(family, f"{accepted} of {tried}" if tried else "–", _percent(before), _percent(after))
    table.add_row(
        "all",
        f"{demonstrations['accepted']} of {demonstrations['tried']}",
        *(_interval(measured[each]) if measured else "–" for each in ("before", "after")),
        style="bold",
    )
    console.print(table)
    where = (
        f"Success in % on {measured['tasks']} held-out tasks × {measured['samples']}" if measured else "Not measured"
    )
    say(f"{where}; taught on {made['dataset']['rows']:,} demonstrations. Report: {made['report']}")
    if spent := demonstrations["spent"]:
        from agentloop.store import teacher_usage

        say(teacher_usage.told(spent))
    say(f"{made['directory']}: to use it, set model={made['made']['name']}")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _interval(success: Mapping[str, float]) -> str:
    return f"{_percent(success['estimate'])} [{_percent(success['low'])}, {_percent(success['high'])}]"
