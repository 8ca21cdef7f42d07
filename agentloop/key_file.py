"""A key in a file that only its owner can read, made once."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

_BYTES = 32


def load(file: Path) -> str:
    """Return the key in the file, which is made where there is none."""
    if not _whole(file):
        _make(file)
    return file.read_text(encoding="utf-8").strip()


def _whole(file: Path) -> bool:
    """True for a key that nobody else can read or change."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o077 and found.st_size >= _BYTES


def _make(file: Path) -> None:
    """Of two processes that make one at the same time, both get the first one's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".key.", dir=file.parent)  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as output:
            output.write(secrets.token_urlsafe(_BYTES))
            output.flush()
            os.fsync(descriptor)
        try:
            os.link(temporary, file)
        except FileExistsError:
            if not _whole(file):  # empty, or known to others: no key
                os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
