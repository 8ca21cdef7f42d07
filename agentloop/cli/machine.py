"""Commands about the machine and the models on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from agentloop.cli.common import Overrides, Profile, console, load, user_path
from agentloop.errors import SettingError


def doctor(
    overrides: Overrides = None,
    profile: Profile = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What training this model needs: a directory, or a name under models/."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Of one packed batch. Default: training.batch_tokens.")] = None,
    supervised: Annotated[float, typer.Option(help="Share of the tokens that are trained on.")] = 1.0,
    budget: Annotated[
        float | None, typer.Option(help="GiB that a step may take, besides training.memory_budget and the usual cards.")
    ] = None,
) -> None:
    """Versions, paths, memory, GPU, ports: what is missing and how to get it. With --train: the memory of a step."""
    if not train:
        given = {"tokens": tokens is not None, "supervised": supervised != 1.0, "budget": budget is not None}
        for name in (name for name, used in given.items() if used):
            raise SettingError(f"--{name}: of a training step, and needs --train MODEL")
    settings = load(profile, [*(overrides or []), *([f"model={train}"] if train else [])])
    if train:
        from agentloop.training import forecast_table

        tokens = settings.training.batch_tokens if tokens is None else tokens
        forecast_table.report(settings, tokens, supervised, budget, console)
        return
    from agentloop.cli import doctor as checks

    table = Table("", "what", "found", "to do", box=None)
    results = checks.examine(settings)
    for check in results:
        state = "[green]ok" if check.ok else "[red]missing" if check.needed else "[yellow]slower"
        table.add_row(state, check.what, check.found, "" if check.ok else check.remedy or "")
    console.print(table)
    sys.exit(0 if all(check.ok or not check.needed for check in results) else 1)


def bootstrap(
    directory: Annotated[Path | None, typer.Argument(help="Default: tiny, under the models' root.")] = None,
    seed: int = 0,
) -> None:
    """Make the tiny base model again, from nothing."""
    settings = load(None, None)
    from agentloop.tiny.bootstrap import bootstrap as make

    directory = user_path(directory) if directory else settings.paths.models / "tiny"
    with Progress(*Progress.get_default_columns(), console=console) as bars:
        bar = bars.add_task("demonstrations")
        report = make(
            directory,
            seed=seed,
            progress=lambda step, steps, loss: bars.update(
                bar, description=f"warm start, loss {loss:.3f}", completed=step, total=steps
            ),
        )
    for measured in report.measured:
        console.print(
            f"{directory}: solves {measured.success:.1%} of {measured.tasks} held-out {measured.environment} tasks at "
            f"temperature 1, {measured.solved:.1%} in {measured.samples} tries"
        )
