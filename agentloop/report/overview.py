"""index.html: every campaign of a database in a line, each with a link to its page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from agentloop import __version__
from agentloop.files import atomic
from agentloop.records import Interval
from agentloop.report import query, state
from agentloop.report.comparison import percent
from agentloop.report.page import FILES, file_name, style
from agentloop.report.plots import duration
from agentloop.report.sections import Markup, badge, table, unbroken
from agentloop.report.summary import DECISIONS
from agentloop.report.svg import Canvas, Scale
from agentloop.store import runs
from agentloop.store.clock import now
from agentloop.store.database import Database

NAME = "index.html"
AGAIN_SECONDS = 60
"""Pause after which the index reads itself anew while a run is at work."""
STATES = {"working": "promote", "complete": "good", "paused": "", "stopped": "bad"}
"""How a state is coloured."""


def write(database: Database, folder: Path, *, at_work: str | None = None) -> Path:
    """Write index.html into the folder of the reports and return its path. `at_work`: the campaign that a run works on.

    Raises DiskError where it cannot be written.
    """
    rows = query.rows(database, "overview")
    headers = (
        "Campaign",
        "#Success",
        "Verdict",
        "State",
        "Course",
        "#Iterations",
        "Model",
        "Environment",
        "#Wall clock",
        "#GPU s",
        "Last run",
    )
    lines = [_line(database, row, folder, at_work) for row in rows]
    shown = table("", headers, lines) if lines else '<p class="note">There is no campaign yet.</p>'
    text = Template((FILES / "index.html").read_text(encoding="utf-8")).substitute(
        style=style(),
        again=f'<meta http-equiv="refresh" content="{AGAIN_SECONDS}">' if at_work else "",
        campaigns=shown,
        version=__version__,
        written=f"{now():%Y-%m-%d %H:%M:%S}",
    )
    output = folder / NAME
    with atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def _line(database: Database, row: dict[str, Any], folder: Path, at_work: str | None) -> list[str]:
    name, judged = row["name"], row["judged"] or []
    made = runs.of_campaign(database, name)
    complete = row["done"] >= row["planned"]
    kind, said = state.of_runs(made, at_work=name == at_work, complete=complete, fault=row["fault"])
    page = file_name(name)
    there = (folder / page).is_file() or name == at_work
    link = f'<a href="{escape(page)}">{escape(name)}</a>' if there else escape(name)
    last = judged[-1]["decision"] if judged else None
    word = "stopped" if kind == "stopped" else said
    return [
        Markup(f"<b>{link}</b>"),
        _success(judged, row["measured"]),
        badge(DECISIONS[last], last) if last else "–",
        Markup(f'<span title="{escape(said)}">{badge(word, STATES[kind])}</span>'),
        _course(judged),
        unbroken(f"{row['done']} of {row['planned']}"),
        Path(row["model"]).name,
        Path(row["environment"]).stem,
        "–" if row["wall"] is None else duration(row["wall"]),
        "–" if row["gpu"] is None else f"{row['gpu']:,.0f}",
        unbroken(f"{state.ended(made[-1]):%Y-%m-%d %H:%M}") if made else "–",
    ]


def _success(judged: Sequence[dict[str, Any]], measured: float | None) -> str:
    """Tell that of the first champion, and of the present one with its interval; without a verdict, what was measured."""
    if not judged:
        return "–" if measured is None else percent(measured)
    first, *_, present = _champions(judged)
    limits = f"({100 * present.low:.1f} to {100 * present.high:.1f})"
    return Markup(
        f'<span class="stack"><span class="plain">{percent(first.estimate)} →</span> '
        f'<span class="plain">{percent(present.estimate)}</span></span> <span class="range">{limits}</span>'
    )


def _champions(judged: Sequence[dict[str, Any]]) -> list[Interval]:
    """Success of the champion before the first verdict and after each."""
    after = ("challenger" if row["decision"] == "promote" else "champion" for row in judged)
    return [
        Interval(**judged[0]["champion"]),
        *(Interval(**row[which]) for row, which in zip(judged, after, strict=True)),
    ]


def _course(judged: Sequence[dict[str, Any]]) -> str:
    """A line through the champions' success."""
    if not judged:
        return "–"
    course = _champions(judged)
    canvas = Canvas(f"Champion's success, {len(course)} points", 26, 88)
    across, up = Scale(0, max(len(course) - 1, 1), 3, 85), Scale(0, 1, 23, 3)
    points = [(across(place), up(each.estimate)) for place, each in enumerate(course)]
    canvas.line(3, up(0), 85, up(0), "grid")
    canvas.path(points, "now")
    canvas.dot(*points[-1], "now", f"{percent(course[-1].estimate)}", radius=2.5)
    return Markup(canvas.inline().replace('class="plot"', 'class="plot spark"'))
