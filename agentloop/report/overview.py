"""index.html: every campaign of a database in a line, each with a link to its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from agentloop import __version__
from agentloop.files import atomic
from agentloop.records import Interval
from agentloop.report import cost, cost_section, query, state
from agentloop.report.comparison import percent
from agentloop.report.page import FILES, file_name, style
from agentloop.report.plots import duration
from agentloop.report.sections import Markup, badge, table
from agentloop.report.summary import DECISIONS
from agentloop.report.svg import Canvas, Scale
from agentloop.store import campaigns, runs
from agentloop.store.clock import now
from agentloop.store.database import Database

NAME = "index.html"
AGAIN_SECONDS = 60
"""Pause after which the index reads itself anew while a run is at work."""
STATES = {"working": "promote", "complete": "good", "paused": "", "stopped": "bad"}
"""How a state is coloured."""


@dataclass(frozen=True)
class _Line:
    name: str
    cells: list[str]


def write(database: Database, folder: Path, *, at_work: str | None = None) -> Path:
    """Write index.html into the folder of the reports and return its path. `at_work`: the campaign that a run works on.

    Raises DiskError where it cannot be written.
    """
    lines = [_line(database, row, folder, at_work) for row in query.rows(database, "campaigns")]
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
    shown = (
        table("", headers, [line.cells for line in lines]) if lines else '<p class="note">There is no campaign yet.</p>'
    )
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


def _line(database: Database, row: dict, folder: Path, at_work: str | None) -> _Line:
    name = row["name"]
    settings = campaigns.settings_json(database, name)
    judged = [each for each in query.rows(database, "iterations", campaign=name) if each["champion_success"]]
    made = runs.of_campaign(database, name)
    kind, said = state.of_runs(made, at_work=name == at_work, complete=row["done"] >= row["planned"])
    costs = cost.of_campaign(database, name)
    page = file_name(name)
    shown = (folder / page).is_file() or name == at_work
    link = f'<a href="{escape(page)}">{escape(name)}</a>' if shown else escape(name)
    last = judged[-1]["decision"] if judged else None
    word = said if len(said) <= 12 else "stopped"
    return _Line(
        name,
        [
            Markup(f"<b>{link}</b>"),
            _success(database, name, judged),
            badge(DECISIONS[last], last) if last else "–",
            Markup(f'<span title="{escape(said)}">{badge(word, STATES[kind])}</span>'),
            _course(judged),
            Markup(f'<span class="plain">{row["done"]} of {row["planned"]}</span>'),
            Path(settings["model"]).name,
            Path(settings["environment"]).stem,
            duration(sum(each.wall for each in costs)) if costs else "–",
            f"{cost_section.total(costs, 'gpu'):,.0f}" if costs else "–",
            Markup(f'<span class="plain">{state.ended(made[-1]):%Y-%m-%d %H:%M}</span>') if made else "–",
        ],
    )


def _success(database: Database, campaign: str, judged: Sequence[dict]) -> str:
    """Of the first champion, and of the present one with its interval; of a campaign without a verdict, what was measured."""
    if not judged:
        rows = database.execute(
            """
            SELECT e.success FROM evaluation_uses u JOIN evaluations e ON e.id = u.evaluation
            WHERE u.campaign = ? AND u.suite = 'heldout' ORDER BY e.number DESC LIMIT 1
            """,
            [campaign],
        )
        return percent(rows[0][0]) if rows else "–"
    first = Interval(**judged[0]["champion_success"])
    now_champion = _champions(judged)[-1]
    limits = f"({100 * now_champion.low:.1f} to {100 * now_champion.high:.1f})"
    return Markup(
        f'<span class="stack"><span class="plain">{percent(first.estimate)} →</span> '
        f'<span class="plain">{percent(now_champion.estimate)}</span></span> <span class="range">{limits}</span>'
    )


def _champions(judged: Sequence[dict]) -> list[Interval]:
    """Success of the champion before the first verdict and after each."""
    found = [Interval(**judged[0]["champion_success"])]
    for row in judged:
        promoted = row["decision"] == "promote"
        found.append(Interval(**row["challenger_success" if promoted else "champion_success"]))
    return found


def _course(judged: Sequence[dict]) -> Markup:
    """A line through the champions' success."""
    if not judged:
        return Markup("–")
    course = _champions(judged)
    canvas = Canvas(f"Champion's success, {len(course)} points", 26, 88)
    across, up = Scale(0, max(len(course) - 1, 1), 3, 85), Scale(0, 1, 23, 3)
    points = [(across(place), up(each.estimate)) for place, each in enumerate(course)]
    canvas.line(3, up(0), 85, up(0), "grid")
    canvas.path(points, "now")
    canvas.dot(*points[-1], "now", f"{percent(course[-1].estimate)}", radius=2.5)
    return Markup(canvas.inline().replace('class="plot"', 'class="plot spark"'))
