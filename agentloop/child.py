"""A child process that cannot outlive its parent, in a process group that ends as a whole.

vLLM and the trainer start processes of their own and hold the GPU. The command runs under a small supervisor that holds
the read end of a pipe. Whatever ends the parent, SIGKILL included, closes the write end, and the supervisor then kills the
group. (PR_SET_PDEATHSIG alone would not do: it fires when the *thread* that started the child ends, and flows run their
tasks in threads.)
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

_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A command under supervision. Standard error goes to `log`; standard output there too unless `read_stdout`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        read_stdout: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`pass_fds`: descriptors that the command inherits under the same numbers."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._lifeline = None
        read_end, self._lifeline = os.pipe()
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agentloop.child", ",".join(map(str, (read_end, *pass_fds))), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read_stdout else output,
                stderr=output,
                env={**os.environ, **environment},
                pass_fds=(read_end, *pass_fds),
                start_new_session=True,
            )
        os.close(read_end)

    @property
    def pid(self) -> int:
        """Of the group's leader, which is also the group's id."""
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
        """SIGTERM to the group, SIGKILL to what is left after the grace. Returns when the group is gone."""
        if self._lifeline is None:
            return
        _signal_group(self.pid, signal.SIGTERM)
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            pass
        _signal_group(self.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)
        self._lifeline = None
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def last_words(self, lines: int = 1) -> str:
        """The end of the log, for an error message."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(text[-lines:])


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass


def _supervise(lifeline: int, passed: Sequence[int], command: Sequence[str]) -> int:
    """Run the command in this group; kill the group when the lifeline closes, leave with the command's exit code."""
    libc = ctypes.CDLL(None)
    os.set_inheritable(lifeline, False)
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), pass_fds=passed)
    for descriptor in passed:
        os.close(descriptor)
    # the command's own SIGTERM handler decides how it ends; the supervisor stays to see it end
    signal.signal(signal.SIGTERM, lambda *_: None)
    ended = os.pidfd_open(child.pid)
    readable, _, _ = select.select([lifeline, ended], [], [])
    if ended not in readable:
        os.killpg(0, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    lifeline, *passed = map(int, sys.argv[1].split(","))
    sys.exit(_supervise(lifeline, passed, sys.argv[2:]))
