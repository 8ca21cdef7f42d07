"""The plan of an iteration that has to end in time: what is cut, by what the campaign's own iterations took before."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from agentloop.campaign.campaign import Campaign
from agentloop.store import paces
from agentloop.store.ledger import Ledger
from agentloop.store.paces import Pace

FEWEST = 8
"""Tasks, and rows, below which nothing is cut."""


@dataclass(frozen=True)
class NightPlan:
    """The work of one iteration, cut to the time that there is."""

    tasks: int
    """Training tasks to collect from."""
    rows: int | None
    """Rows to train on, at most; None: as many as the recipe gives."""
    told: str
    """For people: what was cut and why, or that nothing was."""


@dataclass(frozen=True)
class Deadline:
    """A moment by which so many iterations are to end."""

    at: float
    """By `time.time()`."""
    last: int
    """Iteration."""

    def seconds_for(self, iteration: int) -> float:
        """Return what is left, shared among the iterations that are left."""
        return (self.at - time.time()) / (self.last - iteration + 1)


def plan(campaign: Campaign, iteration: int, deadline: Deadline | None) -> NightPlan:
    """The iteration's plan, made when it first begins and the same whenever it is begun again.

    Without a deadline nothing is cut that was not cut before. What an episode, a row and everything else take is the median of
    the newest iterations; measuring is not cut, for the verdict rests on it.
    """
    if deadline is None:
        with campaign.database() as database:
            recorded = Ledger(database).done(campaign.key("plan", iteration, []))
        return NightPlan(**recorded) if recorded else NightPlan(campaign.settings.collect.tasks, None, "")

    def work() -> dict[str, object]:
        with campaign.database() as database:
            pace = paces.of(database, campaign.name)
        return asdict(_planned(campaign, deadline.seconds_for(iteration), pace))

    return NightPlan(**campaign.step("plan", iteration, [], work))


def _planned(campaign: Campaign, seconds: float, pace: Pace | None) -> NightPlan:
    collect = campaign.settings.collect
    if pace is None:
        return NightPlan(collect.tasks, None, "Nothing is cut: no iteration of this campaign has been timed yet.")
    episodes, rows = collect.tasks * collect.samples, pace.rows
    needed = episodes * pace.episode_seconds + rows * pace.row_seconds
    left = seconds - pace.other_seconds
    if left >= needed:
        return NightPlan(collect.tasks, None, f"Nothing is cut: some {_hours(needed + pace.other_seconds)} are needed.")
    share = max(left, 0.0) / needed
    cut = NightPlan(
        max(min(FEWEST, collect.tasks), int(collect.tasks * share)), max(min(FEWEST, rows), int(rows * share)), ""
    )
    told = (
        f"To end within {_hours(seconds)}: {cut.tasks} of {collect.tasks} tasks, at most {cut.rows} of some {rows} rows, by "
        f"{pace.episode_seconds:.3g} s an episode, {pace.row_seconds:.3g} s a row, {_hours(pace.other_seconds)} for the rest."
    )
    if left <= 0:
        told += " That will not be enough: set night.hours higher, or evaluate.tasks lower."
    return NightPlan(cut.tasks, cut.rows, told)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds, 0) / 60:.0f} min"
