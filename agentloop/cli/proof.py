"""The command that measures what this machine and this model give a user."""

from __future__ import annotations

import shutil
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentloop import settings as configuration
from agentloop.cli.common import Profile, console, say, split, user_path
from agentloop.errors import EmptySelectionError, SettingError
from agentloop.settings import Settings

if TYPE_CHECKING:
    from agentloop.proof.proof import Proof
    from agentloop.proof.sizes import Sizes


def proof(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|SECTION.NAME=VALUE",
            help="A model's directory, or its name under models/. Default: the one that the settings name. And settings.",
        ),
    ] = None,
    profile: Profile = None,
    output: Annotated[
        Path | None, typer.Option(help="A directory for it. Default: proofs/MODEL in the data root.")
    ] = None,
    no_campaign: Annotated[
        bool, typer.Option("--no-campaign", help="Leave out the short campaign, which takes longest.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure nothing: print the proof that is there beside this proof.json of another machine.",
        ),
    ] = None,
) -> None:
    """Measure this machine with this model: training, serving, canary, a short campaign; one JSON file and one page."""
    names, words = split(words)
    if len(names) > 1:
        raise SettingError(f"{names[1]}: one model is measured at a time")
    overrides = configuration.parse_overrides([*words, *(f"model={name}" for name in names)])
    settings = configuration.load(overrides, profile=profile)
    directory = (user_path(output) if output else settings.paths.data / "proofs" / Path(settings.model).name).absolute()
    if compare:
        _compare(directory, user_path(compare))
        return
    measured = _measure(settings, overrides, profile, directory, campaign=not no_campaign)
    sys.exit(0 if measured else 1)


def _measure(
    settings: Settings, overrides: Mapping[str, Any], profile: str | None, directory: Path, *, campaign: bool
) -> bool:
    """Returns whether every canary passed."""
    from agentloop.proof.sizes import merged

    own = merged(overrides, {"paths": {"data": str(directory / "data"), "cache": str(directory / "cache")}})
    private = configuration.load(own, profile=profile)
    private.fix_environment()
    from agentloop import card
    from agentloop.campaign import lock
    from agentloop.campaign.campaign import Campaign
    from agentloop.proof import figures, machine, measurement, page
    from agentloop.proof.proof import Proof, proof_file
    from agentloop.proof.sizes import ON_A_CARD, ON_THE_CPU

    sizes = ON_A_CARD if card.present() else ON_THE_CPU
    with ExitStack() as stack:
        if settings.paths.data.is_dir():  # a run of the user's would take the card meanwhile
            stack.enter_context(lock.owned(settings.paths.data, wait=False))
        opened = Campaign.open(private)
        begun = Proof(directory, machine.describe(opened), sizes)
        with lock.owned(private.paths.data, wait=False):
            measurement.measure(opened, begun, sizes, trajectories=settings.paths.data, say=say)
        page.write(begun.write(), directory / "proof.html")  # what there is, should the campaign fail
        if campaign:
            _short_campaign(private, own, profile, begun, sizes)
    whole = begun.write()
    written = page.write(whole, directory / "proof.html")
    for folder in (private.paths.cache, private.compiled):  # which may be as large as the model, and can be made again
        shutil.rmtree(folder, ignore_errors=True)
    console.print(_table(whole))
    for sentence in figures.remarks(whole):
        console.print(sentence)
    say(f"JSON: {proof_file(directory)}\nPage: {written}")
    return figures.passed(whole)


def _short_campaign(
    settings: Settings, overrides: Mapping[str, Any], profile: str | None, begun: Proof, sizes: Sizes
) -> None:
    from agentloop.proof import short_campaign
    from agentloop.proof.sizes import merged
    from agentloop_flows import foreground

    def measure() -> dict[str, Any]:
        say("campaign: one iteration, its verdict")
        changed = merged(overrides, {**sizes.campaign_overrides(settings), "prefect_port": _free_port()})
        short = configuration.load(changed, profile=profile)
        short.export()
        resumed, started = short_campaign.begun(short), time.perf_counter()
        try:
            with foreground.own_server(short):
                foreground.self_improve(short, profile, changed)
        except EmptySelectionError:
            return {**short_campaign.without_rows(short), "seconds": None}
        seconds = None if resumed else time.perf_counter() - started
        return {**short_campaign.outcome(short), "seconds": seconds}

    begun.part("campaign", measure)


def _compare(directory: Path, file: Path) -> None:
    from agentloop.proof import comparison, figures
    from agentloop.proof.proof import proof_file, read

    one, mine = read(file), proof_file(directory)
    if not mine.is_file():
        raise SettingError(f"--compare: there is no proof in {directory} yet; agentloop proof makes it")
    other = read(mine)
    for letter, each in (("A", one), ("B", other)):
        console.print(f"{letter}: {each['model']['name']}, {each['made']}, {figures.machine(each)}")
        for sentence in figures.remarks(each):
            console.print(f"   {sentence}")
    console.print(comparison.table(one, other, ("A", "B")), markup=True)
    if not comparison.same_card(one, other):
        console.print("No ratios: the card is not the same.")
    if lines := comparison.differences(one, other):
        console.print("Not the same in A | B:")
        for line in lines:
            say(f"  {line}")


def _table(proof: Mapping[str, Any]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from agentloop.proof import figures

    shown = Table(box=SIMPLE_HEAD, show_edge=False, show_header=False, padding=(0, 1, 0, 0))
    for section, listed in figures.measured(proof):
        shown.add_row(Text(section, style="bold"), "")
        for figure in listed:
            shown.add_row(f"  {figure.name}", figure.text(proof), style="dim" if figure.flattering else None)
    return shown


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
