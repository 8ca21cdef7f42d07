"""Commands that bring models onto this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from agentloop.cli.common import Overrides, console, load, say, user_path
from agentloop.errors import SettingError
from agentloop.settings import Settings

Accept = Annotated[
    bool, typer.Option("--accept", help="Say yes to the model's licence beforehand, where nobody can be asked.")
]


def import_model(
    file: Annotated[Path, typer.Argument(help="A GGUF file; of several pieces, any one.")],
    overrides: Overrides = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the directory under the models' root. Default: one by the file's content."
        ),
    ] = None,
) -> None:
    """Make a model directory, in bf16, of a GGUF file of Gemma."""
    settings = load(None, overrides)
    if name is not None and (name in ("", ".", "..") or "/" in name or name.startswith(".")):
        raise SettingError(f"--name: {name!r} is not the name of a directory")
    from agentloop.gguf.importing import imported

    with ExitStack() as stack:
        directory = imported(
            user_path(file), settings.paths.models, cache=settings.paths.cache, name=name, begin=_begin(stack)
        )
    say(f"{directory}: to use it, set model={directory.name}")


def fetch(
    model: Annotated[str, typer.Argument(help="gemma-3-270m, or ORG/NAME on the hub.")],
    overrides: Overrides = None,
    accept: Accept = False,
) -> None:
    """Download a model: gemma-3-270m, small and without an account, or one of the hub."""
    settings = load(None, overrides)
    from agentloop.fetching import gemma, hub

    if "/" in model:
        directory = hub.fetch(model, settings.paths.models, settings.paths.cache, say=say)
    elif model == gemma.NAME:
        directory = fetch_gemma(settings, accept=accept)
    else:
        raise SettingError(f"{model}: there are {gemma.NAME}, and ORG/NAME on the hub")
    say(f"{directory}: to use it, set model={directory.name}")


def fetch_gemma(settings: Settings, *, accept: bool) -> Path:
    """The directory of the small real Gemma, downloaded where it is not there yet. Raises as `gemma.fetch` does."""
    from agentloop.fetching import gemma

    with ExitStack() as stack:
        return gemma.fetch(
            settings.paths.models, settings.paths.cache, agreed=_agreed(accept), say=say, begin=_begin(stack)
        )


def _agreed(accept: bool) -> Callable[[str], bool] | None:
    """Shows a licence and asks whether it is accepted; None where there is nobody to answer."""
    if not accept and not sys.stdin.isatty():
        return None

    def ask(licence: str) -> bool:
        say(licence)
        return accept or typer.confirm("Do you accept these terms?")

    return ask


def _begin(stack: ExitStack) -> Callable[[int], Callable[[int], None]]:
    """A bar that appears when its total is known, and ends with `stack`."""

    def begin(total: int) -> Callable[[int], None]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        bar = stack.enter_context(Progress(*columns, console=console))
        task = bar.add_task("writing bf16", total=total)
        return lambda more: bar.advance(task, more)

    return begin
