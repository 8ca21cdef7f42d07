"""A Prefect server, or Prefect Cloud, that the user has already: named by PREFECT_API_URL or by the active Prefect profile.

Where there is one it is used as it is, and no server of this project starts.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentloop.settings.variables import PREFECT_VARIABLE

URL = "PREFECT_API_URL"
_CLOUD = "https://api.prefect.cloud/api/"


@dataclass(frozen=True)
class UsersServer:
    """The server's address, and what Prefect needs to be let in."""

    url: str
    """Of the API."""
    variables: Mapping[str, str]
    """PREFECT_…, from the profile and the environment; the latter counts more."""

    @property
    def page(self) -> str:
        """Return the address of its UI."""
        if told := self.variables.get("PREFECT_UI_URL"):
            return told
        if self.url.startswith(_CLOUD):  # …/accounts/ID/workspaces/ID
            place = self.url.removeprefix(_CLOUD).replace("accounts/", "account/").replace("workspaces/", "workspace/")
            return f"https://app.prefect.cloud/{place}"
        return self.url.removesuffix("/api")


def find(own: str) -> UsersServer | None:
    """The server that the user has; None where there is none, or it is the one of this project, whose API is at `own`."""
    variables = {**_profile(), **_given(os.environ)}
    url = variables.get(URL, "").rstrip("/")
    if not url or url in (own, own.replace("127.0.0.1", "localhost"), os.environ.get(PREFECT_VARIABLE)):
        return None
    return UsersServer(url, variables)


def _given(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith("PREFECT_") and value}


def _profile() -> dict[str, str]:
    """The settings of the active Prefect profile, without importing Prefect; none where there is none."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    file = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        profile = content["profiles"][os.environ.get("PREFECT_PROFILE") or content["active"]]
        return {name: str(value) for name, value in profile.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
