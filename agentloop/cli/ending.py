"""The end of a command: all that the process still has to do, then the last line on the screen, then nothing more."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def end(code: int, last: str | None = None) -> NoReturn:
    """End the process with this exit code and `last` as the last line on standard error.

    Threads are waited for and exit handlers run first, as they would anyway: Prefect sends what it has not sent yet, and says
    so. What the interpreter does after that is left out: with an error on its way, objects of extensions are still held
    when it ends, and nanobind writes some forty lines about each that leaks.
    """
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
    except KeyboardInterrupt:
        code = INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more
        pass
    except OSError as error:
        code, last = code or 1, last or f"error: standard output: {error.strerror}"
    try:
        if last is not None:
            print(last, file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code)
