"""A user's environment file, tried in a process of its own (see agentloop.trial)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agentloop import environments
from agentloop.environments.check import check_tools, check_verifier


def use(path: Path, tell: Callable[[str], None]) -> None:
    """Import the file, draw a task of each split, make its tools and verify its answer. Raises SettingError, in one line."""
    environment = environments.get(str(path), apart=False)
    tell("use")
    with suppress(environments.TooFewTasks):  # a matter of how many are asked for
        check_tools(environment, seed=0)
        check_verifier(environment, seed=0)
