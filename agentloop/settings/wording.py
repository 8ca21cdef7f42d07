"""What messages about settings show of a value."""

from __future__ import annotations


def shown(value: object, most: int = 200) -> str:
    """Return the value as Python writes it, cut off after `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(text: str, most: int = 1000) -> str:
    """Return the text without line breaks, cut off after `most` characters."""
    return " ".join(text.split())[:most]
