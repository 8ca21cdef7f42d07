"""Small figures as SVG: a canvas in units of about a pixel, colours by class (plot.css)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH = 360
"""User units; the page shows a figure between 0.8 and 1.2 times as large, so that its text stays readable."""
MARGIN = 12
STYLE = Path(__file__).parent / "plot.css"


@dataclass(frozen=True)
class Scale:
    """Linear from data to user units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


class Canvas:
    """Collects elements and becomes one `<svg>`. `title` is what a screen reader says."""

    def __init__(self, title: str, height: float, width: float = WIDTH) -> None:
        self.title, self.width, self.height = title, width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def path(self, points: Sequence[tuple[float, float]], kind: str, hint: str = "") -> None:
        course = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._element(f'<path d="M{course}" class="{kind}"', "path", hint)

    def rect(self, x: float, y: float, width: float, height: float, kind: str, hint: str = "") -> None:
        size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._element(f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="{kind}"', "rect", hint)

    def dot(self, x: float, y: float, kind: str, hint: str = "", radius: float = 4.5) -> None:
        self._element(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"', "circle", hint)

    def text(self, x: float, y: float, text: str, kind: str = "label", anchor: str = "start") -> None:
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def legend(self, entries: Sequence[tuple[str, str]], y: float = 12) -> None:
        """(class, text) side by side, a swatch before each text."""
        x = 0.0
        for kind, text in entries:
            self.rect(x, y - 9, 10, 10, kind)
            self.text(x + 14, y, text)
            x += 14 + text_width(text) + 14

    def inline(self) -> str:
        """The figure as an element of a page that has plot.css."""
        box = f'viewBox="0 0 {self.width:g} {self.height:g}"'
        return f'<svg class="plot" {box} {self._about()}>{"".join(self._parts)}</svg>'

    def file(self) -> bytes:
        """The figure as a file of its own, on white, with a margin."""
        width, height = self.width + 2 * MARGIN, self.height + 2 * MARGIN
        style = STYLE.read_text(encoding="utf-8")
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" width="{2 * width:g}" height="{2 * height:g}" '
            f'viewBox="{-MARGIN} {-MARGIN} {width:g} {height:g}" {self._about()}><style>{style}</style>'
            f'<rect x="{-MARGIN}" y="{-MARGIN}" width="{width:g}" height="{height:g}" fill="#fff"/>'
            f"{''.join(self._parts)}</svg>"
        ).encode()

    def _about(self) -> str:
        return f'role="img" aria-label="{escape(self.title)}"'

    def _element(self, opening: str, name: str, hint: str) -> None:
        self._parts.append(f"{opening}><title>{escape(hint)}</title></{name}>" if hint else f"{opening}/>")


def text_width(text: str) -> float:
    """Return the width of a label, roughly: there is no font to measure with."""
    return 6.1 * len(text)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round values that lie between `low` and `high`."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
