"""Files that others wrote, people or programs: what is broken is told in one line that begins with the file's path."""

from __future__ import annotations

import codecs
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentloop.errors import AgentloopError

MOST_BYTES = 1 << 30
"""Of a file that is read whole."""
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_GZIP = b"\x1f\x8b"
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What a byte that is no UTF-8 is read as: half of a surrogate pair, which UTF-8 itself never gives."""


def read_text(path: Path, error: type[AgentloopError]) -> str:
    """The text of a UTF-8 file, whatever the locale is, without a byte order mark.

    Raises `error`, naming file and line, where it cannot be read or is in another encoding. What is no regular file is
    never opened: a pipe may have nobody at its other end, a device may never end.
    """
    check_regular(path, error)
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise error(f"{path}: not to be read: {fault.strerror}") from None
    _check_start(path, content, error)
    zero = content.find(b"\0")
    if zero >= 0:
        raise error(f"{path}, line {_line(content, zero)}: holds a null character, which no text does")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line, byte = _line(fault.object, fault.start), fault.object[fault.start]
        raise error(f"{path}, line {line}: is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None


def read_lines(path: Path, error: type[AgentloopError]) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 file with their numbers from 1; they end with \n, \r\n or \r. The file is not held in memory.

    Raises `error` as `read_text` does, once the line at fault is reached.
    """
    check_regular(path, error)
    try:
        with path.open("rb") as file:
            _check_start(path, file.read(4), error)
            file.seek(0)
            text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline=None)
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise error(f"{path}, line {number}: holds a null character, which no text does")
                if not line.isascii() and (found := _UNDECODED.search(line)):
                    byte = ord(found[0]) - 0xDC00
                    raise error(f"{path}, line {number}: is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8")
                # inside, too: of files with a byte order mark that were joined
                yield number, line.removesuffix("\n").removeprefix("\ufeff")
    except OSError as fault:
        raise error(f"{path}: not to be read: {fault.strerror}") from None


def _check_start(path: Path, content: bytes, error: type[AgentloopError]) -> None:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            raise error(f"{path}: is {encoding}; save it as UTF-8")
    if content.startswith(_GZIP):
        raise error(f"{path}: is compressed; unpack it with gunzip")


def check_regular(path: Path, error: type[AgentloopError], *, most: int | None = MOST_BYTES) -> None:
    """Raises `error` where there is no regular file, or one of more than `most` bytes."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as fault:  # ValueError: a null character in the name
        raise error(f"{path}: not to be read: {getattr(fault, 'strerror', None) or fault}") from None
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: not to be read: {'a directory' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
    if most is not None and status.st_size > most:
        raise error(f"{path}: not to be read: larger than {most >> 30} GiB")


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


def open_tensors(path: Path, error: type[AgentloopError], *, framework: str = "pt", device: str = "cpu") -> Any:
    """safetensors' open file, tensors on `device`; with the framework "np" torch is not imported.

    Raises `error` where it is missing, truncated or no such file.
    """
    # imported here: settings read their files before anything large is imported
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework=framework, device=device)
    except (OSError, SafetensorError) as fault:
        raise error(f"{path}: not to be read as safetensors: {fault}") from None
