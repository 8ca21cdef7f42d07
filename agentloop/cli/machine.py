"""Commands about the machine and the models on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from agentloop.cli.common import AsJson, Overrides, Profile, console, load, say, say_json, user_path
from agentloop.errors import SettingError

STYLES = {"ok": "green", "missing": "red", "slower": "yellow", "fragile": "yellow"}
"""Of what the doctor says of a thing."""


def doctor(
    overrides: Overrides = None,
    profile: Profile = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Instead: the memory that training this model takes. A directory, or a name under models/.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="With --train: tokens of one packed batch. Default: training.batch_tokens.")
    ] = None,
    supervised: Annotated[
        float, typer.Option(help="With --train: share of the tokens that are trained on, 0 to 1.")
    ] = 1.0,
    budget: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="With --train: what a step may take, to look at beside the usual cards."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Versions, paths, memory, GPU, ports: what is missing and how to get it. Exit code 1 where something needed is missing."""
    if not train:
        given = {"tokens": tokens is not None, "supervised": supervised != 1.0, "budget": budget is not None}
        for name in (name for name, used in given.items() if used):
            raise SettingError(f"--{name}: of a training step, and needs --train MODEL")
    settings = load(profile, [*(overrides or []), *([f"model={train}"] if train else [])])
    if train:
        from agentloop.training import forecast_table

        tokens = settings.training.batch_tokens if tokens is None else tokens
        if as_json:
            say_json(forecast_table.as_json(settings, tokens, supervised, budget))
        else:
            forecast_table.report(settings, tokens, supervised, budget, console)
        return
    from agentloop.cli import doctor as checks
    from agentloop.cli import schedule_checks

    results = [*checks.examine(settings), *schedule_checks.examine(settings)]
    well = all(check.ok or not check.needed for check in results)
    if as_json:
        found = [
            {"what": check.what, "found": check.found, "state": check.state, "remedy": check.told_remedy}
            for check in results
        ]
        say_json({"ok": well, "checks": found})
        sys.exit(0 if well else 1)
    table = Table("", "what", "found", "to do", box=None)
    for check in results:
        state = Text(check.state, style=STYLES[check.state])
        table.add_row(state, check.what, check.found, check.told_remedy or "")
    console.print(table)
    sys.exit(0 if well else 1)


def bootstrap(
    directory: Annotated[
        Path | None, typer.Argument(help="Where to write it. Default: its name, under the models' root.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of its first weights and its demonstrations.")] = 0,
    model: Annotated[
        str, typer.Option(metavar="tiny|tiny-textworld", help="Which: the demo's, or the one that plays TextWorld.")
    ] = "tiny",
) -> None:
    """Make a tiny base model of the demos, from nothing: some minutes."""
    settings = load(None, None)
    make_tiny(user_path(directory) if directory else settings.paths.models / model, model, seed)


def make_tiny(directory: Path, model: str, seed: int = 0) -> None:
    """Make the tiny model of that name, and say what it solves. Raises SettingError where there is no such recipe."""
    from agentloop.tiny.bootstrap import RECIPES
    from agentloop.tiny.bootstrap import bootstrap as make

    if model not in RECIPES:
        raise SettingError(f"--model: there is no tiny model {model!r}; there are {', '.join(RECIPES)}")
    with Progress(*Progress.get_default_columns(), console=console) as bars:
        bar = bars.add_task("demonstrations")
        report = make(
            directory,
            RECIPES[model],
            seed=seed,
            progress=lambda step, steps, loss: bars.update(
                bar, description=f"warm start, loss {loss:.3f}", completed=step, total=steps
            ),
        )
    for measured in report.measured:
        say(
            f"{directory}: solves {measured.success:.1%} of {measured.tasks} held-out {measured.environment} tasks at "
            f"temperature 1, {measured.solved:.1%} in {measured.samples} tries"
        )
