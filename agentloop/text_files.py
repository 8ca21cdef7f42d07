"""Text files that people wrote: regular ones, in UTF-8, line by line."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

MOST_BYTES = 1 << 30
"""Of a file that is read whole."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class UnreadableText(Exception):
    """A file is no text. The message is one line that says why; whoever catches it names the file and `place` before it."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.place = "" if line is None else f", line {line}"


def read_text(path: Path) -> str:
    """The text of a regular file, without its byte order mark. Raises UnreadableText.

    What is no regular file is never opened: a pipe may have nobody at its other end, a device may never end.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableText("it is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableText("it is no regular file")
        if status.st_size > MOST_BYTES:
            raise UnreadableText(f"it is larger than {MOST_BYTES >> 30} GiB")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise UnreadableText(getattr(error, "strerror", None) or str(error)) from None
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise UnreadableText(f"it is {encoding}; save it as UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise UnreadableText("it has a null character: UTF-16, or no text at all; save it as UTF-8", line)
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        content = error.object
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise UnreadableText(f"it is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8", line) from None


def lines_of(text: str) -> list[str]:
    r"""The lines, which end with \n, \r\n or \r.

    Not `str.splitlines`: it also ends a line at U+2028, U+0085 and others that JSON lets stand inside a text.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.removeprefix("\ufeff") for line in lines]  # of files with a mark that were joined
