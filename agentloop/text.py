"""Text that others wrote, made fit to be stored: it can be encoded, and it is not endless."""

from __future__ import annotations

import re
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
"""Joiners, marks of direction, soft hyphens, variation selectors."""


def encodable(text: str) -> str:
    """The text with halves of a surrogate pair joined to the character that they stand for, lone halves replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def composed(text: str) -> str:
    """The text in Unicode's form NFC, in which an accented letter is one character however it was typed."""
    return unicodedata.normalize("NFC", text)


def comparable(text: str) -> str:
    """The text without what a reader does not see: its case, the width of its characters, invisible ones among them."""
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", folded)  # folding may take a composed letter apart


def lines_of(text: str) -> list[str]:
    r"""The lines, which end with \n, \r\n or \r.

    Not `str.splitlines`: it also ends a line at U+2028, U+0085 and others that JSON lets stand inside a text.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.removeprefix("\ufeff") for line in lines]  # of files with a byte order mark that were joined


def is_blank(text: str) -> bool:
    """Return True where nothing of the text can be seen."""
    return all(each.isspace() or unicodedata.category(each) in ("Cc", "Cf") for each in text)


def said_replaced(count: int) -> str:
    """A line for whoever reads the text, where `count` characters of it were replaced."""
    return f"\n[{count} characters that cannot be encoded are replaced]" if count else ""


def one_line(error: BaseException) -> str:
    """Type and message of an exception on one line, for a table of failures."""
    message = one_line_of(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def one_line_of(value: object, *, most: int = 500) -> str:
    """Any object as text on one line."""
    try:
        text = " ".join(encodable(str(value)).split())
    except Exception:  # a __str__ of somebody else's that raises
        return "(its text cannot be read)"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def odds(evidence: float) -> str:
    """Return evidence as people read it: 0.8, 312, 12,000 or 1.3e+09."""
    if evidence < 10:
        return f"{evidence:.2g}"
    return f"{evidence:,.0f}" if evidence < 1e6 else f"{evidence:.1e}"
