"""The environments of a host's worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from agentloop import environments
from agentloop.environments import Environment


def imported(sources: Sequence[str]) -> tuple[Callable[[str], Environment], list[str]]:
    """Import the environments, by name or file as in the settings.

    Returns what finds one by its name, and the names of those whose episodes are more than tools. Raises SettingError.
    """
    found = [environments.get(source, apart=False) for source in sources]  # from then on each is known by its name
    return cache(environments.get), [environment.name for environment in found if not environment.plain]
