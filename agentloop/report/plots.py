"""The figures of a campaign. Each takes plain values and returns a canvas; `plots` makes those that stand alone."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from agentloop.records import Interval
from agentloop.report import query, summary
from agentloop.report.comparison import Headline
from agentloop.report.cost import OTHER, PARTS, Cost
from agentloop.report.summary import Row
from agentloop.report.svg import WIDTH, Canvas, Scale, text_width, ticks
from agentloop.store.database import Database

CURVE_POINTS = 200
"""Of one loss curve; a longer one is averaged in blocks."""
LENGTH_BINS = 24
CROWDED = 10
"""Iterations from which labels are thinned out."""
STEEP = 10
"""Values so many times as large as others are drawn on a logarithmic scale."""
NEWEST = 12
"""Iterations that a figure with a row or a curve for each of them shows."""


def plots(database: Database, campaign: str, result: Headline) -> dict[str, bytes]:
    """SVG files (image/svg+xml) by name: success by iteration and, once something was selected, the newest funnel."""
    rows = summary.iterations(database, campaign, result.control)
    figures = {"success": success(rows)} if any(row.after for row in rows) else {}
    for found in query.rows(database, "funnels", campaign=campaign):
        if found["role"] == "challenger":
            figures["selection"] = funnel(json.loads(found["funnel"]))
    return {name: figure.file() for name, figure in figures.items()}


def success(rows: Sequence[Row]) -> Canvas:
    """Held-out success with intervals: the first champion, then each challenger, then the control."""
    measured = [row for row in rows if row.after and not row.control]
    first = next((row.before for row in rows if row.before and not row.control), None)
    points: list[tuple[str, str, Interval]] = [("base", "base", first)] if first else []
    points += [(row.name, "now" if row.decision == "promote" else "then", row.after) for row in measured]
    points += [("control", "control", row.after) for row in rows if row.control and row.after]
    canvas = Canvas("Success on held-out tasks with 95 % intervals, by iteration", 250)
    up = Scale(0, 100, 214, 16)
    for tick in (0, 25, 50, 75, 100):
        canvas.line(34, up(tick), WIDTH, up(tick), "grid")
        canvas.text(28, up(tick) + 4, str(tick), anchor="end")
    across = Scale(0, max(len(points), 1), 44, WIDTH - 4)
    every = -(-len(points) // CROWDED)
    for place, (name, kind, interval) in enumerate(points):
        x = across(place + 0.5)
        estimate, low, high = (100 * value for value in (interval.estimate, interval.low, interval.high))
        hint = f"{name}: {estimate:.1f} % ({low:.1f} to {high:.1f})"
        shade = "now" if kind == "then" else kind
        canvas.line(x, up(low), x, up(high), f"interval {shade}")
        canvas.dot(x, up(estimate), kind, hint)
        if place % every == 0 or place == len(points) - 1:
            canvas.text(x, 232, name, anchor="middle")
            canvas.text(x, max(up(high) - 7, 11), f"{estimate:.0f}", "value", "middle")
    canvas.text(34 + (WIDTH - 34) / 2, 248, "iteration", anchor="middle")
    return canvas


def funnel(stages: Sequence[tuple[str, int]]) -> Canvas:
    """Rows left after each rule of a selection."""
    canvas = Canvas("Rows left after each rule of the selection", 34 * len(stages))
    total = max(stages[0][1], 1) if stages else 1
    before = None
    for place, (rule, left) in enumerate(stages):
        y = 34 * place
        lost = "" if before is None else f"  −{before - left:,}" if before > left else "  none removed"
        canvas.text(0, y + 12, rule)
        canvas.text(WIDTH, y + 12, f"{left:,}", "value", "end")
        canvas.text(WIDTH - 8 - 7.4 * len(f"{left:,}"), y + 12, lost, anchor="end")
        canvas.rect(0, y + 17, WIDTH, 8, "rest")
        canvas.rect(0, y + 17, WIDTH * left / total, 8, "bar", f"{rule}: {left:,} of {total:,}")
        before = left
    return canvas


def curves(rows: Sequence[Mapping[str, Any]], what: str) -> Canvas:
    """A metric of training; the newest challenger stands out, a control is dashed. `rows`: those of queries/curves.sql."""
    canvas = Canvas(f"{what} by optimizer step", 240)
    shown = sorted({curve["iteration"] for curve in rows})[-NEWEST:]
    courses = [
        (curve, _thinned(list(zip(curve["steps"], curve["values"], strict=True))))
        for curve in rows
        if curve["iteration"] in shown
    ]
    values = [value for _, course in courses for _, value in course]
    last = max(step for _, course in courses for step, _ in course)
    low, high = min(values), max(values)
    steep = low > 0 and high > STEEP * low
    scaled = math.log10 if steep else float
    room = (scaled(high) - scaled(low)) * 0.08 or 0.1
    vertical, across = Scale(scaled(low) - room, scaled(high) + room, 196, 10), Scale(0, last, 40, WIDTH - 74)
    marks = _decades(low, high) if steep else ticks(low - room, high + room)

    def up(value: float) -> float:
        return vertical(scaled(value))

    for tick in marks:
        canvas.line(40, up(tick), WIDTH - 74, up(tick), "grid")
        canvas.text(34, up(tick) + 4, f"{tick:.3g}", anchor="end")
    for tick in ticks(0, last):
        canvas.text(across(tick), 214, f"{tick:.0f}", anchor="middle")
    canvas.text((WIDTH - 34) / 2, 234, "optimizer step", anchor="middle")
    newest = max((curve["iteration"] for curve, _ in courses if curve["role"] == "challenger"), default=None)
    ends = []
    for curve, course in courses:
        control = curve["role"] == "control"
        kind = "control" if control else "now" if curve["iteration"] == newest else "then"
        name = "control" if control else f"iteration {curve['iteration']}"
        hint = f"{name}: {course[-1][1]:.3f} at the end"
        canvas.path([(across(step), up(value)) for step, value in course], kind, hint)
        ends.append((up(course[-1][1]), name, kind))
    if len(ends) > 5:
        ends = [end for end in ends if end[2] != "then"]
    bottom = 0.0
    for place, (y, name, kind) in enumerate(sorted(ends)):
        bottom = max(min(y, 188 - 14 * (len(ends) - 1 - place)), bottom + 14)
        canvas.text(WIDTH - 68, bottom + 4, name, "value" if kind == "now" else "label")
    return canvas


def lengths(counts: Sequence[Mapping[str, Any]]) -> Canvas:
    """Tokens of the collected trajectories, solved and not. `counts`: rows of queries/lengths.sql."""
    canvas = Canvas("Tokens of the collected trajectories", 240)
    smallest, largest = min(row["tokens"] for row in counts), max(row["tokens"] for row in counts)
    width = max(1, -(-(largest - smallest + 1) // LENGTH_BINS))
    bins: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in counts:
        bins[(row["tokens"] - smallest) // width][row["solved"]] += row["trajectories"]
    highest = max(sum(pair) for pair in bins.values())
    up = Scale(0, highest, 196, 30)
    across = Scale(0, max(bins) + 1, 44, WIDTH - 6)
    canvas.legend([("good", "solved"), ("rest", "not solved")])
    for tick in ticks(0, highest):
        canvas.line(44, up(tick), WIDTH, up(tick), "grid")
        canvas.text(38, up(tick) + 4, f"{tick:,.0f}", anchor="end")
    for place, (failed, solved) in sorted(bins.items()):
        first = smallest + place * width
        x, wide = across(place) + 0.5, across(1) - across(0) - 1
        hint = f"{first} to {first + width - 1} tokens: {solved:,} solved, {failed:,} not"
        canvas.rect(x, up(solved), wide, up(0) - up(solved), "good", hint)
        canvas.rect(x, up(solved + failed), wide, up(solved) - up(solved + failed), "rest", hint)
    for tick in ticks(smallest, smallest + (max(bins) + 1) * width):
        canvas.text(across((tick - smallest) / width), 214, f"{tick:.0f}", anchor="middle")
    canvas.text((WIDTH + 38) / 2, 234, "tokens in a trajectory", anchor="middle")
    return canvas


def times(costs: Sequence[Cost]) -> Canvas:
    """Draw where the time went: a bar for each iteration, the control and what is outside of them."""
    shown = [cost for cost in costs if cost.wall][-NEWEST:]
    names = [name for name in (*PARTS, OTHER) if any(cost.parts[name] for cost in shown)]
    kinds = {name: f"part{place}" for place, name in enumerate((*PARTS, OTHER))}
    lines = _legend_lines([(kinds[name], name) for name in names])
    top = 18 * len(lines) + 8
    canvas = Canvas("Seconds by iteration and part", top + 30 * len(shown))
    for place, line in enumerate(lines):
        canvas.legend(line, 12 + 18 * place)
    widest = max((1.2 * text_width(duration(cost.wall)) for cost in shown), default=0)  # set in bold
    start = 10 + max((text_width(cost.name) for cost in shown), default=0)
    along = Scale(0, max((cost.wall for cost in shown), default=1), 0, WIDTH - start - 6 - widest)
    for place, cost in enumerate(shown):
        y, seconds = top + 30 * place, 0.0
        canvas.text(0, y + 14, cost.name)
        for name in names:
            took = cost.parts[name]
            hint = f"{cost.name}: {name} {duration(took)}, {100 * took / cost.wall:.1f} %"
            canvas.rect(start + along(seconds), y, along(took), 20, kinds[name], hint)
            seconds += took
        canvas.text(start + 6 + along(seconds), y + 14, duration(cost.wall), "value")
    return canvas


def families(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Canvas:
    """Held-out success by family of the task, base model and champion. Both: rows of queries/families.sql."""
    start = {row["family"]: row["success"] for row in before}
    canvas = Canvas("Success by family of the task, base model and champion", 24 + 36 * len(after))
    along = Scale(0, 1, 6, WIDTH - 6)
    bottom = 36 * len(after)
    for tick, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end")):
        canvas.line(along(tick), 0, along(tick), bottom, "grid")
        canvas.text(along(tick), bottom + 16, f"{100 * tick:.0f}", anchor=anchor)
    for place, row in enumerate(after):
        y, old, new = 36 * place + 24, start.get(row["family"], 0.0), row["success"]
        canvas.text(0, y - 10, f"{row['family']} ({row['tasks']} tasks)")
        canvas.text(WIDTH, y - 10, f"{100 * old:.0f} → {100 * new:.0f}", "value", "end")
        canvas.line(along(old), y, along(new), y, "link")
        canvas.dot(along(old), y, "base", f"{row['family']}, base model: {100 * old:.1f} %")
        canvas.dot(along(new), y, "now", f"{row['family']}, champion: {100 * new:.1f} %")
    return canvas


def flips(changed: Sequence[tuple[int, int, int]]) -> Canvas:
    """(iteration, gained, lost): tasks of which the challenger solved more samples than the champion, and fewer."""
    changed = changed[-NEWEST:]
    canvas = Canvas("Tasks gained and lost by each challenger", 24 + 30 * len(changed))
    canvas.legend([("bad", "lost"), ("good", "gained")])
    most = max(max(gained, lost) for _, gained, lost in changed) or 1
    middle = 28 + (WIDTH - 28) * 0.4
    along = Scale(0, most, 0, min(middle - 60, WIDTH - middle - 34))
    for place, (iteration, gained, lost) in enumerate(changed):
        y = 24 + 30 * place
        canvas.text(0, y + 14, str(iteration))
        canvas.rect(middle - along(lost), y, along(lost), 20, "bad", f"iteration {iteration}: {lost} lost")
        canvas.rect(middle, y, along(gained), 20, "good", f"iteration {iteration}: {gained} gained")
        canvas.text(middle - along(lost) - 6, y + 14, str(lost), "value", "end")
        canvas.text(middle + along(gained) + 6, y + 14, str(gained), "value")
    canvas.line(middle, 20, middle, 24 + 30 * len(changed), "axis")
    return canvas


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive values."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    return [mark for mark in marks if low <= mark <= high]


def duration(seconds: float) -> str:
    """Return a length of time for people: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _thinned(course: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most CURVE_POINTS points: the means of equal blocks."""
    block = -(-len(course) // CURVE_POINTS)
    parts = [course[first : first + block] for first in range(0, len(course), block)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _legend_lines(entries: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for entry in entries:
        wide = 28 + text_width(entry[1])
        if used + wide > WIDTH and lines[-1]:
            lines.append([])
            used = 0.0
        lines[-1].append(entry)
        used += wide
    return lines
