"""Free bytes of a disk, asked for before something large is written to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from agentloop import sizes
from agentloop.errors import NoSpaceError


def free(path: Path) -> int:
    """Bytes that this user may still write to the disk of `path`, which need not be there yet."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def require(path: Path, needed: int, *, reserve: int = 0) -> None:
    """Raises NoSpaceError, naming path, needed and free bytes, where the disk of `path` has not so many free.

    `reserve`: bytes that are to stay free besides.
    """
    there = free(path)
    if there < needed + reserve:
        kept = f", and {sizes.said(reserve)} stay free (retention.reserve_gib)" if reserve else ""
        raise NoSpaceError(f"{path}: {sizes.said(needed)} are needed there{kept}; {sizes.said(there)} are free")
