"""Where compiled code may lie: a folder whose name compilers' command lines can hold, and whose files can be executed.

Inductor writes the names of its files into a command line as they are, so that a space or a quote cuts it; and from a
file system that is mounted `noexec` nothing is loaded that was compiled there.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

_HARMLESS = frozenset("@%+=:,./-_")
"""Characters that mean nothing to a shell, beside letters and digits."""
MADE_VARIABLE = "AGENTLOOP_MADE"
"""Environment variable with the folder for what environments make once: settings set it, below `paths.cache`."""


def made() -> Path:
    """Return the folder for what environments make once: that of the settings, else one of this user's."""
    named = os.environ.get(MADE_VARIABLE)
    return Path(named) if named else _private_parents(os.environ)[0] / "made"


def fault(folder: Path) -> str | None:
    """Why nothing that is compiled below `folder` would work, in a few words; None where it does."""
    return odd_characters(folder) or noexec(folder)


def odd_characters(folder: Path) -> str | None:
    """Why the folder's name cannot stand in a command line as it is, None where it can."""
    odd = sorted({character for character in str(folder) if not (character.isalnum() or character in _HARMLESS)})
    return f"the path holds {', '.join('a space' if each == ' ' else repr(each) for each in odd)}" if odd else None


def noexec(folder: Path) -> str | None:
    """Why nothing can be executed that lies in the folder, which need not be there yet; None where it can."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return "the file system is mounted noexec" if os.statvfs(existing).f_flag & os.ST_NOEXEC else None


def compile_root(cache: Path, variables: Mapping[str, str]) -> Path:
    """`cache` where compiled code can lie there, else a private folder of this user's, named after `cache`.

    That is below XDG_CACHE_HOME or ~/.cache, else below the temporary folder; `cache` again where none of them will do.
    """
    if fault(cache) is None:
        return cache
    name = hashlib.sha256(str(cache).encode(errors="surrogateescape")).hexdigest()[:12]
    for parent in _private_parents(variables):
        if fault(parent) is None and is_private(parent) and is_private(parent / name):
            return parent / name
    return cache


def _private_parents(variables: Mapping[str, str]) -> list[Path]:
    homes = [variables.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")]
    return [
        *(Path(home, "agentloop") for home in homes if os.path.isabs(home)),
        Path(tempfile.gettempdir(), f".agentloop-cache-{os.getuid()}"),
    ]


def is_private(folder: Path) -> bool:
    """Return True where nobody else can write into the folder, which is made where it is missing.

    What has a known name in a place for everybody may have been made by somebody else.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
