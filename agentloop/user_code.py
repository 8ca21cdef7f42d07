"""Python files of the user's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from agentloop.errors import AgentloopError


def run_file(path: Path, *, about: str, error: type[AgentloopError]) -> ModuleType:
    """The module that the file makes. Raises `error`, in one line that says what the file is about, where it fails."""
    spec = importlib.util.spec_from_file_location(f"agentloop_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise error(f"{about} {path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look there
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        raise error(f"{about} {path}: {type(fault).__name__}: {fault}") from fault
    return module
