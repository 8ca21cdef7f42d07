"""The interpreter of the command line: text is UTF-8 whatever the locale says, and the current folder hides no module."""

from __future__ import annotations

import io
import os
import sys


def insist_on_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where the locale's encoding is another. Call it before anything else.

    Files, databases and what a model writes are UTF-8; under an 8-bit locale they would be read as something else.
    """
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where PYTHONIOENCODING asks for less


def put_current_folder_last() -> None:
    """After `python -m`: what lies in the current folder can still be imported, and hides none of Python's own modules."""
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        sys.path.append(sys.path.pop(0))
