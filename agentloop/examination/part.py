"""One part of an examination."""

from __future__ import annotations

from dataclasses import dataclass

NAMED = 5
"""Of many tasks with the same fault so many are named; the number of the others is told."""
SHOWN = 160
"""Characters of a call, or of a result, that are shown."""


@dataclass(frozen=True)
class Part:
    """One part of an examination: lines for a person to read, and what is wrong."""

    title: str
    lines: tuple[str, ...]
    faults: tuple[str, ...] = ()
    """One line each; none where nothing is wrong."""


def named(names: list[str]) -> str:
    """Return the first few of these names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{'; '.join(names[:NAMED])}{more}"


def called(text: str) -> str:
    """Return a call without the fence around it."""
    return " ".join(line for line in text.split("\n") if not line.startswith("```"))
