"""A program that somebody else has written, run with nothing but a folder: no network, no other files, no other processes.

Linux's namespaces do it (confined.py): the program sees the system's own files, to read alone, its interpreter and the folder.
It has no capabilities, and limits of time, memory, processes, bytes on disk and output. Where a machine gives no user
namespaces, `available` says why, and nothing is run unless the user asks for it without them.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentloop.tools.folder import MAX_BYTES, MAX_FILES, Folder

_SCRIPT = Path(__file__).with_name("confined.py")
_SYSTEM = (
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/lib32",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
)
_GRACE_SECONDS = 5.0
"""Beyond the program's time: for the watcher, which should have ended it, to tell so on a busy machine."""


@dataclass(frozen=True)
class Limits:
    """The resources that a program and all that it starts may take together."""

    seconds: float = 10.0
    """Time by the clock; processor time is bounded by as much and a second for each process."""
    memory: int = 512 << 20
    """Bytes of memory: addresses of each process, and what all of them hold."""
    processes: int = 16
    """Processes and threads of the program's user; the watcher counts processes."""
    bytes: int = MAX_BYTES
    """Bytes of the folder, and of one file."""
    files: int = MAX_FILES
    """Files in the folder."""
    output: int = 20_000
    """Bytes that it may print."""


@dataclass(frozen=True)
class Ended:
    """End of a program, and what it has printed."""

    output: str
    code: int | None
    """Exit code, or less the number of a signal; None where a limit or a fault ended it."""
    limit: str | None = None
    """The limit that it was beyond: a field of Limits."""


class SandboxError(Exception):
    """Raised where a program could not be run confined: a fault of the machine, not of the program."""


def interpreter() -> str:
    """Return the path of this Python itself, without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def run(command: Sequence[str], folder: Folder, limits: Limits, *, namespaces: bool = True) -> Ended:
    """Run a command in the folder, which it knows as /work. Raises SandboxError.

    `namespaces`: false runs it without them, as this user, with the limits alone.
    """
    status, told = os.pipe()
    with tempfile.TemporaryDirectory(prefix="root-") as root:
        asked = {
            "command": list(command),
            "environment": {
                "PATH": "/usr/bin:/bin",
                "HOME": "/work",
                "LANG": "C.UTF-8",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            "folder": str(folder.path),
            "root": root,
            "readable": [*_SYSTEM, os.path.realpath(sys.base_prefix)],
            "namespaces": namespaces,
            "parent": os.getpid(),
            "status": told,
            "seconds": limits.seconds,
            "memory": limits.memory,
            "processes": limits.processes,
            "bytes": limits.bytes,
            "files": limits.files,
        }
        try:
            process = subprocess.Popen(
                [interpreter(), "-I", "-S", str(_SCRIPT), json.dumps(asked)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={"LANG": "C.UTF-8"},
                pass_fds=(told,),
            )
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(told)
        with process, os.fdopen(status, "rb") as reports:
            try:
                output, whole = _listen(process, limits)
            finally:
                process.kill()  # and with it all that it has started
                process.wait()
            line = reports.readline()
    text = output.decode("utf-8", errors="replace")
    if not whole:
        return Ended(text, None, "output")
    report = json.loads(line or b"{}")
    if "limit" in report:
        return Ended(text, None, report["limit"])
    if "code" not in report:
        raise SandboxError(report.get("fault") or f"no program was started: {text[-500:]}")
    return Ended(text, report["code"])


def _listen(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, bool]:
    """What the program prints until nobody can print any more, and whether it is all."""
    assert process.stdout
    output = b""
    deadline = time.monotonic() + limits.seconds + _GRACE_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(left):
                continue
            part = os.read(process.stdout.fileno(), 1 << 16)
            output += part
            if len(output) > limits.output:
                return output[: limits.output], False
            if not part:
                break
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, deadline - time.monotonic()))
    return output, True


@cache
def available() -> str | None:
    """Return None where programs can be run confined on this machine, else the reason, in one line."""
    if not sys.platform.startswith("linux"):
        return "only Linux has namespaces"
    folder = Folder()
    try:
        ended = run([interpreter(), "-I", "-S", "-c", "print(6 * 7)"], folder, Limits())
    except (SandboxError, OSError) as error:
        return str(error)
    finally:
        folder.close()
    return None if ended.output == "42\n" else f"a program ends with {ended.code}: {ended.output[-200:]}"
