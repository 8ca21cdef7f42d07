"""What a process may meet on other machines, brought about for real: a disk without locks, one that is read-only, a foreign owner.

Each of these is for `subprocess`'s `preexec_fn`, or for a `with` block.
"""

import ctypes
import errno
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38
_FLOCK, _ALLOW, _ERRNO = 73, 0x7FFF0000, 0x00050000
_CAPABILITIES_OVER_FILES = (1, 2, 3)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER"""


def without_locks() -> None:
    """From now on flock fails in this process and in what it starts, as on a disk of a server that keeps no locks."""
    steps = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, _FLOCK),  # another one: skip the next step
        (0x06, 0, 0, _ERRNO | errno.ENOLCK),
        (0x06, 0, 0, _ALLOW),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    header = struct.pack("HL", len(steps), ctypes.addressof(program))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header), 0, 0)


def as_an_ordinary_user() -> None:
    """From the next program on, the permissions of other users' files count for root too."""
    for capability in _CAPABILITIES_OVER_FILES:
        _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """The folder, seen through a mount that is read-only."""
    at.mkdir()
    if subprocess.run(["mount", "--bind", folder, at], capture_output=True).returncode:
        pytest.skip("this machine does not let this user mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def _prctl(*arguments) -> None:
    if _LIBC.prctl(*arguments):
        raise OSError(ctypes.get_errno(), "prctl")
