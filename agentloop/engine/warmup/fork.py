"""A copy of this process that does one thing and ends: it has everything imported already, which takes an interpreter seconds.

The copy keeps memory and standard error, nothing else: no descriptor (a lock or a pipe that it held would stay held), no
signal handler, no clean-up at exit. It must not touch CUDA, whose state does not survive.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

import torch

SECONDS = 600
"""Then the copy is ended, whatever it does: nobody waits for one that hangs."""


class Fork:
    """A copy under way."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> None:
        """Wait until it has ended, well or not."""
        with suppress(ChildProcessError):  # somebody else has waited for it
            os.waitpid(self.pid, 0)


def can_fork() -> bool:
    """Return True where a copy is safe: CUDA is not in use, and no other thread holds a lock that nobody would release in the
    copy.
    """
    return not torch.cuda.is_initialized() and threading.active_count() == 1


def fork(work: Callable[[], None]) -> Fork:
    """Call `work` in a copy of this process. Its standard output is nowhere; an exception is printed there and ends it."""
    sys.stderr.flush()  # or both would write what is pending
    if pid := os.fork():
        return Fork(pid)
    code = 1
    try:
        _detach()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _detach() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(SECONDS)
    gc.freeze()  # a file of the parent's, collected here, would close a descriptor that is another's by then
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            with suppress(OSError):
                os.close(descriptor)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    sys.stdout, sys.stderr = (
        open(1, "w", closefd=False, encoding="utf-8"),
        open(2, "w", buffering=1, closefd=False, encoding="utf-8"),
    )
    torch.set_num_threads(1)  # the threads of the parent's pool are not here
