"""The project: the user's folder with agentloop.toml, models, data and tasks, wherever agentloop itself is installed.

It is found from the current folder upwards, as git finds its own; AGENTLOOP_PROJECT or `agentloop --project DIR` name another
one. A checkout of agentloop is a project too.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentloop.errors import SettingError

FILE = "agentloop.toml"
"""What makes a folder a project. It may be empty."""
VARIABLE = "AGENTLOOP_PROJECT"


class NoProjectError(SettingError):
    """Neither the current folder nor one above it is a project."""


def _checkout() -> Path | None:
    above = Path(__file__).resolve().parents[1]
    return above if (above / "pyproject.toml").is_file() and (above / "kernels").is_dir() else None


CHECKOUT = _checkout()
"""The checkout that this code runs from; None where agentloop is installed from a wheel."""


def root() -> Path:
    """The project's folder, absolute. Raises SettingError where the one that is named is none, NoProjectError where none is."""
    if named := os.environ.get(VARIABLE):
        return _named(named)
    try:
        here = Path.cwd()
    except OSError:
        raise SettingError("the current folder does not exist any more") from None
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder
    if CHECKOUT:
        return CHECKOUT
    raise NoProjectError(
        f"no project: neither {here} nor a folder above it has an {FILE}; "
        "`agentloop init DIR` makes one, `agentloop --project DIR …` names one"
    )


def _named(name: str) -> Path:
    folder = Path(os.path.expanduser(name)).absolute()
    try:
        there = folder.is_dir()
    except (OSError, ValueError):  # too long a name, a null byte
        there = False
    if not there:
        raise SettingError(f"{VARIABLE}: there is no folder {name[:200]}")
    return folder
