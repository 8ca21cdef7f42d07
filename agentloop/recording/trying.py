"""An agent's file, tried in a process of its own (see agentloop.trial)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentloop.recording.command import AgentCommand
from agentloop.recording.process import function_of


def use(path: Path, tell: Callable[[str], None]) -> None:
    """Import the file of `FILE.py:function`, which is the path, and look for the function. Raises SettingError, in one line."""
    function_of(AgentCommand.read(str(path)))
