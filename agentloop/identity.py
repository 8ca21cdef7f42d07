"""Which process is meant by a number: one start of the machine and one moment in it, which no clock that is set changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STATE, _STARTED = 0, 19
"""Among the fields of /proc/PID/stat that follow the program's name."""
_DEAD = ("Z", "X", "x")


@dataclass(frozen=True)
class Identity:
    """A process of this machine."""

    pid: int
    ticks: int
    """When it started, in the kernel's ticks since the machine did."""
    boot: str
    """Which start of the machine: after another one, every process is gone."""

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The process that has this number now, None where there is none or it has ended."""
        fields = _stat(pid)
        if fields is None or fields[_STATE] in _DEAD:
            return None
        return cls(pid, int(fields[_STARTED]), boot_id())

    def lives(self) -> bool:
        """Return True while the process runs; a later one with the same number is another."""
        return Identity.of(self.pid) == self


@cache
def boot_id() -> str:
    return _BOOT_ID.read_text(encoding="utf-8").strip()


def _stat(pid: int) -> list[str] | None:
    try:
        # the program's name, in parentheses, may hold anything
        return Path(f"/proc/{pid}/stat").read_text(errors="replace", encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
