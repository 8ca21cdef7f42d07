"""Campaigns that go on night after night: what a run has to do, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentloop.campaign import position
from agentloop.campaign.campaign import Campaign
from agentloop.report import summary
from agentloop.report.comparison import percent, points
from agentloop.settings import Settings
from agentloop.store import campaigns, champions, ingest
from agentloop.store.database import Database

PROMOTED, KEPT, MORE_DATA, NOTHING = "Promoted", "Kept champion", "More data needed", "Nothing to do"


@dataclass(frozen=True)
class Work:
    """The part of a campaign that a run has to do."""

    iterations: tuple[int, ...]
    """Not finished yet, in order."""
    control: bool
    """Whether the control is to be measured, after the last of all iterations."""
    damaged: tuple[int, ...] = ()
    """Finished, but with episodes whose file is gone or cut: these are played again, everything else stands."""

    def __bool__(self) -> bool:
        return bool(self.iterations or self.control or self.damaged)


@dataclass(frozen=True)
class Ending:
    """The end of a run, for people."""

    name: str
    """In two or three words."""
    sentence: str


def aim(campaign: Campaign, run: str) -> int:
    """The number of iterations that the campaign has when a run has added those of its settings.

    `run` names it: the same run, tried again after a fault, adds no others.
    """
    more = campaign.settings.iterations

    def work() -> dict[str, int]:
        with campaign.database() as database:
            return {"iterations": campaigns.finished(database, campaign.name) + more}

    return campaign.step("aim", 0, [run, more], work)["iterations"]


def with_more(settings: Settings) -> Settings:
    """The settings of a run that is to add its iterations to those that are there now."""
    path = settings.paths.database
    if not path.is_file():
        return settings
    with Database.open_snapshot(path) as database:
        done = campaigns.finished(database, settings.campaign)
    return settings.model_copy(update={"iterations": done + settings.iterations})


def work(campaign: Campaign) -> Work:
    """Find what is left of the campaign's iterations and its control."""
    settings = campaign.settings
    with campaign.database() as database:
        done = campaigns.finished(database, campaign.name)
        place = position.find(database, campaign.name, iterations=settings.iterations, control=settings.gate.control)
        damaged = tuple(each for each in ingest.damaged(database, campaign.name) if 1 <= each <= done)
    left = tuple(range(done + 1, settings.iterations + 1))
    return Work(left, settings.gate.control and place.step is not None, damaged)


def title(settings: Settings, iterations: Sequence[int]) -> str:
    """A run's name for people: `units · iterations 4–6`."""
    if not iterations:
        return settings.campaign
    first, last = iterations[0], iterations[-1]
    return f"{settings.campaign} · iteration{f' {first}' if first == last else f's {first}–{last}'}"


def ending(campaign: Campaign, iterations: Sequence[int]) -> Ending:
    """Tell what came of these iterations."""
    with campaign.database() as database:
        rows = [
            row
            for row in summary.iterations(database, campaign.name, None)
            if row.iteration in iterations and not row.control and row.decision is not None
        ]
        champion = champions.champion(database, campaign.name) or "the base model"
    if not rows:
        done = f"all {campaign.settings.iterations} iterations are there"
        return Ending(NOTHING, f"{campaign.name}: {done}, the champion is {champion}")
    promoted = [row for row in rows if row.decision == "promote"]
    if promoted:
        told = "; ".join(f"iteration {row.iteration} {_gain(row)}" for row in promoted)
        return Ending(f"{PROMOTED} {points(sum(_difference(row) for row in promoted))}", f"{campaign.name}: {told}")
    name = MORE_DATA if rows[-1].decision == "needs_more_data" else KEPT
    told = "; ".join(f"the challenger of iteration {row.iteration} {_gain(row)}" for row in rows)
    return Ending(name, f"{campaign.name}: {champion} stays; {told}")


def _gain(row: summary.Row) -> str:
    if row.before is None or row.after is None:
        return "as judged"
    return f"{percent(row.before.estimate)} → {percent(row.after.estimate)} ({points(_difference(row))})"


def _difference(row: summary.Row) -> float:
    return row.difference.estimate if row.difference else 0.0
