"""A campaign in a few lines: one row for each iteration and one for the control; and what a campaign is doing now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.table import Table

from agentloop.records import Decision, Interval
from agentloop.report import query
from agentloop.report.comparison import Comparison, points, probability
from agentloop.store import champions
from agentloop.store.database import Database
from agentloop.store.ledger import INTERRUPTED

DECISIONS = {"promote": "promoted", "keep": "kept", "needs_more_data": "more data", None: "–"}
"""The verdict as a person reads it: what happened to the challenger, or rather to the champion."""


@dataclass(frozen=True)
class Row:
    """One iteration's challenger, or the control; None where it is not known yet."""

    iteration: int
    control: bool
    tasks: int | None
    """Training tasks that the iteration collected; None for the control, which collects nothing."""
    rows: int | None
    """Trajectories that the adapter was trained on."""
    before: Interval | None
    """Success on the held-out tasks of the champion, for the control of the base model."""
    after: Interval | None
    """Success on the same tasks of the adapter."""
    difference: Interval | None
    mcnemar_p: float | None
    decision: Decision | None
    """None for the control, which is no candidate."""
    adapter: str | None

    @property
    def name(self) -> str:
        return "control" if self.control else str(self.iteration)


def iterations(database: Database, campaign: str, control: Comparison | None) -> list[Row]:
    """A row for each iteration that was begun, in order, and at the end one for the control where there is one.

    `control`: the base model against it, as far as both are measured.
    """
    rows = [
        Row(
            found["iteration"],
            False,
            found["tasks"],
            found["rows"],
            _interval(found["champion_success"]),
            _interval(found["challenger_success"]),
            _interval(found["difference"]),
            found["mcnemar_p"],
            found["decision"],
            found["adapter"],
        )
        for found in query.rows(database, "iterations", campaign=campaign)
    ]
    for made in query.rows(database, "control", campaign=campaign):
        rows.append(
            Row(
                made["iteration"],
                True,
                None,
                made["rows"],
                control and control.before_success,
                control and control.after_success,
                control and control.difference,
                control and control.mcnemar_p,
                None,
                made["adapter"],
            )
        )
    return rows


def table(rows: Sequence[Row], title: str = "Success on held-out tasks") -> Table:
    """Return a table for a terminal of 100 columns."""
    shown = Table(
        title=title,
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption="Success in %, with its 95 % interval.",
        caption_justify="left",
    )
    for header in ("Iteration", "Tasks", "Rows", "Before", "After", "Verdict", "Adapter"):
        number = header in ("Tasks", "Rows", "Before", "After")
        shown.add_column(header, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        shown.add_row(
            row.name,
            _count(row.tasks),
            _count(row.rows),
            _success(row.before),
            _success(row.after),
            DECISIONS[row.decision],
            row.adapter or "–",
            style="bold" if row.decision == "promote" else "dim" if row.control else None,
        )
    return shown


def markdown(rows: Sequence[Row]) -> str:
    """The same table with differences and p-values, for a Prefect artifact."""
    lines = [
        "| Iteration | Tasks | Rows | Before, % | After, % | Difference, points | McNemar p | Verdict | Adapter |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for row in rows:
        p = "–" if row.mcnemar_p is None else probability(row.mcnemar_p)
        cells = (
            row.name,
            _count(row.tasks),
            _count(row.rows),
            _success(row.before),
            _success(row.after),
            _difference(row.difference),
            p,
            DECISIONS[row.decision],
            f"`{row.adapter}`" if row.adapter else "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Step:
    """One step of the ledger."""

    iteration: int
    name: str
    status: str
    """started, done, failed"""
    started: datetime
    finished: datetime | None
    error: str | None
    ended: float | None
    """Its place among all beginnings and ends, which tells the order also where the clock was set back."""

    def __str__(self) -> str:
        return f"{self.name} of iteration {self.iteration}"


@dataclass(frozen=True)
class CampaignStatus:
    name: str
    done: int
    """Iterations that are complete."""
    planned: int
    champion: str | None
    """Adapter; None while it is the base model."""
    last: Step | None
    """The step that ended last."""
    running: Step | None
    """The step that is being worked on."""


def status(database: Database, at_work: str | None, *, since: datetime | None = None) -> list[CampaignStatus]:
    """Every campaign, the newest first.

    `at_work`: the campaign that owns the data root, `since` then (UTC). What another campaign has begun and not ended was
    interrupted, and so was what this one had begun before.
    """
    return [_status(database, found, at_work, since) for found in query.rows(database, "campaigns")]


def status_table(statuses: Sequence[CampaignStatus]) -> Table:
    """Return a table for a terminal of 100 columns."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for header in ("Campaign", "Iterations", "Champion", "Last step", "Running step"):
        shown.add_column(header, no_wrap=header == "Champion", overflow="fold")
    for each in statuses:
        last = f"{each.last}: {outcome(each.last)}" if each.last else "–"
        running = f"{each.running} since {each.running.started:%H:%M:%S} UTC" if each.running else "–"
        shown.add_row(each.name, f"{each.done} of {each.planned}", each.champion or "base model", last, running)
    return shown


def _status(database: Database, found: dict, at_work: str | None, since: datetime | None) -> CampaignStatus:
    steps = [
        Step(**{name: step[name] for name in Step.__dataclass_fields__})
        for step in query.rows(database, "steps", campaign=found["name"])
    ]
    steps = [
        _interrupted(step)
        if step.status == "started" and (found["name"] != at_work or since is not None and step.started < since)
        else step
        for step in steps
    ]
    ended = [step for step in steps if step.status != "started"]
    running = [step for step in steps if step.status == "started"]
    return CampaignStatus(
        found["name"],
        found["done"],
        found["planned"],
        champions.champion(database, found["name"]),
        max(reversed(ended), key=lambda step: step.ended, default=None),
        running[-1] if running else None,
    )


def _interrupted(step: Step) -> Step:
    # nobody saw it end; it was begun last, so nothing ended after it
    return replace(step, status="failed", finished=step.started, error=INTERRUPTED, ended=math.inf)


def outcome(step: Step) -> str:
    """Return how a step ended, in a word, or with what error."""
    if step.error == INTERRUPTED:
        return step.error
    return f"failed: {step.error}" if step.error else step.status


def _interval(value: dict[str, float] | None) -> Interval | None:
    return Interval(**value) if value else None


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)


def _success(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    estimate, low, high = (_percent(value) for value in (interval.estimate, interval.low, interval.high))
    return f"{estimate} [{low}, {high}]"


def _percent(share: float) -> str:
    # 100 without its decimal: the table must fit 100 columns
    return f"{100 * share:.1f}".replace("100.0", "100")


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{points(interval.estimate)} [{points(interval.low)}, {points(interval.high)}]"
