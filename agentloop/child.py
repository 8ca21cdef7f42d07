"""A child process that cannot outlive its parent, and ends with everything that it started.

vLLM, the trainer and the tools' host start processes of their own; some hold the GPU. The command runs under a small
supervisor that holds the read end of a pipe. Whatever ends the parent, SIGKILL included, closes the write end, and the
supervisor then kills the command and all its descendants, which it adopts where they are orphaned. (PR_SET_PDEATHSIG alone
would not do: it fires when the *thread* that started the child ends, and flows run their tasks in threads.)
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from agentloop import child_log, scratch
from agentloop.errors import AgentloopError, NoSpaceError, lacks_space

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


NO_SPACE = "no space: "
"""What the last line of a child of this project begins with that found the disk full."""
ERROR = "error: "
"""And of one that found a fault that the user can act on."""


def refused(error: AgentloopError | OSError) -> int:
    """Say on standard error, as the last line of a child, why it ends. Returns its exit code.

    An OSError that is not of a full disk is a bug, and raised.
    """
    if lacks_space(error):
        print(f"{NO_SPACE}{error.fault if isinstance(error, NoSpaceError) else error}", file=sys.stderr)
    elif isinstance(error, OSError):
        raise error
    else:
        print(f"{ERROR}{error}", file=sys.stderr)
    return 2


class ChildProcess:
    """A command under supervision. Standard error goes to `log`; standard output there too unless `read_stdout`.

    Its temporary folder is one of its own, which nobody else can enter and which ends with it. What it writes, there or
    elsewhere, only this user can read.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str | None],
        log: Path,
        read_stdout: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`environment`: what differs from this process's, None for what is left out.

        `pass_fds`: descriptors that the command inherits under the same numbers.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._log_begins = log.stat().st_size if log.exists() else 0
        self._lifeline = None
        read_end, self._lifeline = os.pipe()
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agentloop.child", ",".join(map(str, (read_end, *pass_fds))), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read_stdout else output,
                stderr=output,
                env=inherited(environment),
                pass_fds=(read_end, *pass_fds),
                start_new_session=True,
            )
        os.close(read_end)

    @property
    def pid(self) -> int:
        """Return the supervisor's process id; everything that the command starts is in its session."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        return self._process.stdout

    def poll(self) -> int | None:
        """The command's exit code, None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float | None = None) -> int:
        return self._process.wait(seconds)

    def stop(self, *, grace_seconds: float = 10) -> None:
        """SIGTERM to the command's group, SIGKILL to it after the grace. Returns when the command has ended."""
        if self._lifeline is None:
            return
        self._process.terminate()  # which the supervisor passes on
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            pass
        os.close(self._lifeline)
        self._lifeline = None
        self._process.wait()
        _kill_session(self.pid)  # which is empty unless somebody killed the supervisor
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def said(self) -> str:
        """Return what it has written to its log, which may hold what others wrote before."""
        return child_log.since(self.log, self._log_begins)

    def told(self, prefix: str) -> str | None:
        """Return what follows `prefix` in the last line that it wrote with this beginning; None where there is no such line."""
        line = child_log.line_since(self.log, self._log_begins, prefix)
        return None if line is None else line.removeprefix(prefix)

    def last_words(self, lines: int = 1) -> str:
        """The end of the log, for an error message."""
        text = self.log.read_text(errors="replace", encoding="utf-8").strip().splitlines()
        return " | ".join(text[-lines:])


def inherited(changes: Mapping[str, str | None] = {}) -> dict[str, str]:
    """This process's environment with changes (None: left out), for a Python that is started by `-m` or `-c`.

    Such a one looks for modules in the current folder first: a random.py there, as in a folder of tasks, would hide
    Python's own.
    """
    merged = {**os.environ, "PYTHONSAFEPATH": "1", **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _kill_session(session: int) -> None:
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and os.getsid(int(entry)) == session:
                os.kill(int(entry), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _kill_descendants() -> None:
    """Kill and collect whatever still lives below this process. It adopts orphans, so none of them is out of reach."""
    while True:
        for process in _children():
            os.kill(process, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own, found = os.getpid(), []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and _parent(int(entry)) == own:
                found.append(int(entry))
        except (OSError, ValueError):  # it has ended
            continue
    return found


def _parent(process: int) -> int:
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _supervise(lifeline: int, passed: Sequence[int], command: Sequence[str]) -> int:
    """Run the command in a group of its own; once the lifeline closes or the command ends, kill it and whatever it has
    started, and leave with the command's exit code."""
    groups: list[int] = []

    def pass_on(number: int, _: object) -> None:
        # the command's own handler decides how it ends; the supervisor stays to see it end
        for group in groups:
            _signal_group(group, number)
        if not groups:
            sys.exit(128 + number)

    signal.signal(signal.SIGTERM, pass_on)
    os.umask(0o077)
    os.set_inheritable(lifeline, False)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with scratch.directory() as temporary:
        child = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(temporary)},
            process_group=0,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            pass_fds=passed,
        )
        for descriptor in passed:
            os.close(descriptor)
        groups.append(child.pid)
        ended = os.pidfd_open(child.pid)
        select.select([lifeline, ended], [], [])
        _signal_group(child.pid, signal.SIGKILL)
        code = child.wait()
        _kill_descendants()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    lifeline, *passed = map(int, sys.argv[1].split(","))
    sys.exit(_supervise(lifeline, passed, sys.argv[2:]))
