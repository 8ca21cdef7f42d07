"""Text that others wrote, made fit to be stored: it can be encoded, and it is not endless."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def encodable(text: str) -> str:
    """The text with halves of a surrogate pair joined to the character that they stand for, lone halves replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


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
