"""Files that others wrote, people or programs: what is broken is told in one line that begins with the file's path."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from agentloop.errors import AgentloopError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, error: type[AgentloopError]) -> str:
    """The text of a UTF-8 file, whatever the locale is, without a byte order mark.

    Raises `error`, naming file and line, where it cannot be read or is in another encoding.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the name
        raise error(f"{path}: not to be read: {getattr(fault, 'strerror', None) or fault}") from None
    if content.startswith(_UTF_16):
        raise error(f"{path}: is UTF-16; save it as UTF-8")
    zero = content.find(b"\0")
    if zero >= 0:
        raise error(f"{path}, line {_line(content, zero)}: holds a null character, which no text does")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(
            f"{path}, line {_line(content, fault.start)}: is not UTF-8 (byte 0x{content[fault.start]:02x})"
        ) from None


def _line(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def read_object(path: Path, error: type[AgentloopError]) -> dict[str, Any]:
    """The JSON object in `path`. Raises `error` where it is missing or no such thing."""
    try:
        value = json.loads(read_text(path, error))
    except (ValueError, RecursionError) as fault:
        raise error(f"{path}: not to be read: {fault}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object")
    return value


def open_tensors(path: Path, error: type[AgentloopError]) -> Any:
    """safetensors' open file, on the CPU. Raises `error` where it is missing, truncated or no such file."""
    # imported here: settings read their files before anything large is imported
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt", device="cpu")
    except (OSError, SafetensorError) as fault:
        raise error(f"{path}: not to be read as safetensors: {fault}") from None
