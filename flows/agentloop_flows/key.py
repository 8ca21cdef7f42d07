"""The key of the local Prefect server: made once, kept in a file that only its owner can read."""

from __future__ import annotations

import base64

from agentloop import key_file
from agentloop.settings import Settings

USER = "agentloop"
"""Prefect's keys have the form of a user's name and a password."""


def load(settings: Settings) -> str:
    """The key, which is made where there is none."""
    return key_file.load(settings.paths.services / "key")


def credentials(settings: Settings) -> str:
    """Return what Prefect calls an auth string."""
    return f"{USER}:{load(settings)}"


def authorization(auth_string: str) -> str:
    """The header that proves an auth string."""
    return "Basic " + base64.b64encode(auth_string.encode()).decode()
