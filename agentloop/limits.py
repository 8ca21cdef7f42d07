"""What this process may use of the machine: memory and processors, within the limits of its container (cgroup v1 or v2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class Memory:
    """An amount of memory, in bytes."""

    available: int
    limit: int | None
    """The container's; None where it has none."""


def memory(*, groups: Path = _GROUPS, mount: Path = _MOUNT) -> Memory:
    """Return what is free for this process, and the limit that it runs under."""
    available, least = psutil.virtual_memory().available, None
    for folder in _folders("memory", groups, mount):
        for limit_file, usage_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / usage_file)
            if limit is None or limit >= _UNLIMITED:
                continue
            least = min(limit, least or limit)
            # what files have left in memory is given back when it is asked for
            held = (used or 0) - _statistic(folder / "memory.stat", cached)
            available = min(available, max(0, limit - max(0, held)))
    return Memory(available, least)


def processors(*, groups: Path = _GROUPS, mount: Path = _MOUNT) -> int:
    """Cores that this process may keep busy: those that it may run on, less where the container has a quota of time."""
    cores: float = len(os.sched_getaffinity(0))
    for folder in _folders("cpu", groups, mount):
        quota = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(quota) == 2 and all(word.isdecimal() for word in quota) and int(quota[1]):
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(1, math.floor(cores))


def _folders(controller: str, groups: Path, mount: Path) -> Iterator[Path]:
    """The group of this process for the controller, and those around it, as far as they can be seen from here."""
    for line in _lines(groups):
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        for root in (mount / names, mount / controller, mount / "unified") if names else (mount, mount / "unified"):
            inner = root / path.strip("/")
            # in a container the path may be one of the host's; its own group is then the mount itself
            yield from dict.fromkeys(each for each in (inner, *inner.parents, root) if each.is_relative_to(root))


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line.count(":") >= 2]
    except OSError:
        return []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0].isdecimal() else None


def _statistic(file: Path, name: str) -> int:
    words = _words(file)
    return int(words[words.index(name) + 1]) if name in words else 0


def data_bytes() -> int:
    """Return the private writable memory that this process has mapped, in bytes, which is what RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
