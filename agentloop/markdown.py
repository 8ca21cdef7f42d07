"""Markdown for the cards of what leaves the house."""

from __future__ import annotations

from collections.abc import Sequence

from agentloop.text import one_line_of


def listed(names: Sequence[str]) -> str:
    """Return names as code, in a row."""
    return ", ".join(f"`{name}`" for name in names)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, whatever the cells hold; its lines end with a line break."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[one_line_of(cell, most=2000).replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
