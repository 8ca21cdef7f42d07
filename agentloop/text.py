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


def one_line(error: BaseException, *, most: int = 500) -> str:
    """Type and message of an exception on one line, for a table of failures."""
    try:
        message = " ".join(encodable(str(error)).split())
    except Exception:  # a __str__ of somebody else's that raises
        message = "(its message cannot be read)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"
