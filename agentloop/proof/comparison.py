"""Two proofs side by side. A ratio is shown where both are of the same card, or without one of the same processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from agentloop.proof import figures
from agentloop.proof.proof import at, differing

_SUBJECT = ("machine", "software", "model", "settings", "sizes")


def same_card(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same cards by name and number; where neither proof has one, the same processor with as many cores."""

    def hardware(proof: Mapping[str, Any]) -> list[Any]:
        about = proof["machine"]
        return [each["name"] for each in about["cards"]] or [about["cpu"], about["cores"]]

    return bool(one["machine"]["cards"]) == bool(other["machine"]["cards"]) and hardware(one) == hardware(other)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what the figures depend on and is not the same in both, one line each: `name: value | other value`."""
    places = differing({part: one[part] for part in _SUBJECT}, {part: other[part] for part in _SUBJECT})
    source = "training.rows.source"
    if at(one, source) != at(other, source):
        places.append(source)
    return [f"{place}: {_shown(at(one, place))} | {_shown(at(other, place))}" for place in places]


def rows(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """(section, figure, of the first, of the second, second over first). The ratio is empty where it would say nothing."""
    ratios = same_card(one, other)
    made = []
    for section, all_figures in figures.SECTIONS:
        for figure in all_figures:
            values = at(one, figure.place), at(other, figure.place)
            if values == (None, None):
                continue
            ratio = ""
            if ratios and figure.comparable and None not in values and values[0]:
                ratio = f"{values[1] / values[0]:.2f}"
            made.append((section, figure.name, figure.text(one), figure.text(other), ratio))
    return made


def table(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str]) -> Table:
    """Return the comparison as a table for a terminal."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for header in ("", *names, "ratio"):
        shown.add_column(header, justify="left" if not header else "right")
    section = None
    for title, figure, first, second, ratio in rows(one, other):
        if title != section:
            shown.add_row(f"[bold]{title}[/bold]", "", "", "")
            section = title
        shown.add_row(f"  {figure}", first, second, ratio)
    return shown


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)
