"""The addresses that notices go to. Each is a secret: it is read where it is used, and neither said nor stored."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from agentloop import project
from agentloop.errors import SettingError
from agentloop.reading import read_text
from agentloop.settings.sections import Notify

_OTHERS = 0o077


def addresses(notify: Notify) -> list[str]:
    """Return the addresses of the environment variable and of the file; empty where neither is there.

    Raises SettingError, which names no address, for a file that is missing or that other users can read.
    """
    return [*os.environ.get(notify.webhook_variable, "").split(), *_of_the_file(notify)]


def name(address: str) -> str:
    """Return what may be said of an address: its scheme and, for a web address, its host."""
    try:
        parts = urlsplit(address)
        host = parts.hostname if parts.scheme in ("http", "https") else None
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{host}" if host else f"{parts.scheme}://" if parts.scheme else "an address without scheme"


def _of_the_file(notify: Notify) -> list[str]:
    if notify.webhook_file is None:
        return []
    path = project.root() / notify.webhook_file
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingError(f"notify.webhook_file: {path}: {error.strerror}") from None
    if mode & _OTHERS:
        raise SettingError(f"notify.webhook_file: other users can read {path}, which is a secret; chmod 600 it")
    lines = [line.strip() for line in read_text(path, SettingError).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
