"""Files of a model or an adapter that others wrote: what is broken is told in one line that begins with the file's path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from agentloop.errors import AgentloopError


def read_object(path: Path, error: type[AgentloopError]) -> dict[str, Any]:
    """The JSON object in `path`. Raises `error` where it is missing or no such thing."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as fault:  # ValueError: neither UTF-8 nor JSON
        raise error(f"{path}: not to be read: {fault}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object")
    return value


def open_tensors(path: Path, error: type[AgentloopError]) -> Any:
    """safetensors' open file, on the CPU. Raises `error` where it is missing, truncated or no such file."""
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as fault:
        raise error(f"{path}: not to be read as safetensors: {fault}") from None
