"""What the commands of `agentloop` share: their options, the settings, the database, and how they say things."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from agentloop import settings as configuration
from agentloop.errors import SettingError, StoreError
from agentloop.settings import PROFILES, Settings

if TYPE_CHECKING:
    from agentloop.store.database import Database

# Tables are made for 100 columns; where the output is no terminal there is no narrower one to respect. What is printed is
# somebody's text more often than not: square brackets and colons in it are no markup.
console = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)


_loaded: list[Settings] = []
"""The settings that this process's command has loaded."""


def profiles() -> list[str]:
    """Names that --profile takes."""
    return sorted(file.stem for file in PROFILES.glob("*.toml"))


Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        metavar="NAME",
        help=f"Settings that belong together: {', '.join(profiles())}.",
        autocompletion=profiles,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.NAME=VALUE", help="Settings, for example training.rank=32 campaign=mine."),
]
Named = Annotated[
    str | None,
    typer.Option(
        "--campaign",
        metavar="NAME",
        help="The campaign. Default: the one that the settings name, else the only one, else the newest.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of text, for programs (docs/cli.md).")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved settings and what would be done; do nothing.")
]


def load(profile: str | None, overrides: list[str] | None) -> Settings:
    """The settings, with the paths that libraries read from the environment fixed: call it before importing these.

    Creates nothing; what writes calls `Settings.export` as well.
    """
    settings = configuration.load(overrides or [], profile=profile)
    settings.fix_environment()
    _loaded.append(settings)
    return settings


def remedied(error: Exception) -> Exception:
    """The error, with the command that makes room and how much, where a disk is full and the command's settings are known."""
    from agentloop import housekeeping

    try:
        with housekeeping.remedied(_loaded[-1]) if _loaded else nullcontext():
            raise error
    except Exception as told:
        return told


def user_path(word: str | Path) -> Path:
    """A path of the command line, `~` expanded also where the shell does not do it. Raises SettingError, naming it."""
    try:
        return Path(configuration.home_expanded(str(word)))
    except ValueError as error:
        raise SettingError(f"{word}: {error}") from None


def split(words: list[str] | None) -> tuple[list[str], list[str]]:
    """Split what a command takes by name from the settings among it."""
    names = [word for word in words or () if "=" not in word]
    return names, [word for word in words or () if "=" in word]


def say(line: str) -> None:
    """Print a line as it stands, however long it is."""
    console.print(line, highlight=False, soft_wrap=True)


def say_json(value: Any) -> None:
    """Print the one JSON document of a command. Times are in UTC, as 2026-01-31T23:59:59Z."""
    print(as_json(value, default=_text, indent=2))


def as_json(value: Any, **options: Any) -> str:
    """The value as JSON that standard output can write: escaped where its encoding is not UTF-8, else as it is."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not plain, allow_nan=False, **options)


def _text(value: Any) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else str(value)


@contextmanager
def reading(settings: Settings) -> Iterator[Database]:
    """A snapshot of the database: works while a run is writing."""
    from agentloop.store.database import Database

    with Database.open_snapshot(settings.paths.database) as database:
        yield database


@contextmanager
def writing(settings: Settings) -> Iterator[Database]:
    """The database itself, which has to be there. Nobody else can have it meanwhile."""
    from agentloop.store.database import Database

    if not settings.paths.database.is_file():
        raise StoreError(f"{settings.paths.database}: no database here yet")
    with Database.open(settings.paths.database) as database:
        yield database
