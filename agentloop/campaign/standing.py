"""Where a campaign stands: what is at work and how far it is, what has been reached, how long the rest may take."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentloop.campaign import position, results
from agentloop.campaign.lock import Owner
from agentloop.campaign.position import ROLL_OUTS, Position
from agentloop.report import query, summary
from agentloop.report.comparison import Comparison
from agentloop.report.state import State, of_runs
from agentloop.report.summary import CampaignStatus
from agentloop.settings import Paths
from agentloop.store import campaigns, families, runs, taught_bases
from agentloop.store.clock import now
from agentloop.store.database import Database

COVERED = 0.5
"""An iteration of which its phases account for a smaller share may have waited for somebody to start it again."""
TEACHING = "teaching-"
"""Beginning of the names of teachings, which are campaigns of their own."""
NEWEST_STEPS = 20
"""Optimizer steps that the speed of training is taken from."""


@dataclass(frozen=True)
class Work:
    """The work that a run of a campaign is at now."""

    since: datetime
    """UTC."""
    iteration: int | None = None
    step: str | None = None
    """collect, evaluate, or as the ledger calls it; None where nothing tells what it is."""
    control: bool = False
    """For the control, which follows the last iteration."""
    done: int | None = None
    of: int | None = None
    unit: str | None = None
    """What `done` and `of` count."""
    seconds_left: float | None = None
    """Of this step; None where there is no ground for an estimate."""


@dataclass(frozen=True)
class TimeLeft:
    """An estimate that holds where all goes on as in an earlier iteration."""

    iteration: float
    """Seconds that the present iteration still takes."""
    campaign: float
    """Seconds that all iterations still take, without the control."""
    like: int
    """The earlier iteration."""


@dataclass(frozen=True)
class Standing:
    status: CampaignStatus
    complete: bool
    """True where a run would find nothing left to do."""
    work: Work | None
    """None where no run of the campaign is at work."""
    success: Comparison | None
    """Base against champion, the base against itself where it is champion; None where they are not measured yet."""
    time_left: TimeLeft | None
    """None where there is no ground for an estimate."""


def overview(database: Database, owner: Owner | None) -> list[CampaignStatus]:
    """Every campaign in short, the newest first. `owner`: who has the data root now."""
    if owner is None:
        return summary.status(database, None)
    return summary.status(database, owner.campaign, since=_began(owner))


def stand(database: Database, campaign: str, paths: Paths, owner: Owner | None) -> Standing:
    """All that is known of one campaign. `owner`: who has the data root now. Raises StoreError for an unknown campaign."""
    stored = campaigns.settings_json(database, campaign)
    status = next(each for each in overview(database, owner) if each.name == campaign)
    teaches = taught_bases.of_campaign(database, campaign) is not None
    control = stored["gate"]["control"] and not teaches
    place = position.find(database, campaign, iterations=status.planned, control=control)
    work: Work | None = None
    left: TimeLeft | None = None
    if owner is not None and owner.campaign == campaign and (began := _began(owner)):
        like = _reference(database, campaign)
        work = _Work(database, status, stored, paths, like["iteration"] if like else None).since(began, place)
        left = _time_left(database, status, like) if like else None
    # student and taught base are two bases, and the report's affair
    success = None if teaches else results.compare(database, campaign, None, status.champion)
    return Standing(status, place.step is None, work, success, left)


@dataclass(frozen=True)
class _Work:
    """Looks for what a campaign at work is doing."""

    database: Database
    status: CampaignStatus
    stored: dict[str, Any]
    paths: Paths
    like: int | None
    """The iteration that tells how long things take."""

    def since(self, began: datetime, place: Position) -> Work:
        """What the run does that has had the data root since `began`; `place` is what it has to do next."""
        running = self.status.running
        if running is not None:
            control = place.control and running.iteration == place.iteration
            return self._timed(Work(running.started, running.iteration, running.name, control))
        return self._rolling_out(began, place)

    def _rolling_out(self, began: datetime, place: Position) -> Work:
        """Between two steps of the ledger. Of episodes it knows nothing: shards tell, or what came before them."""
        last = self.status.last
        ended = last.finished if last is not None else None
        gone_on = ended is not None and ended >= began
        start = max(ended, began) if ended is not None else began
        waiting = [
            (file.stat().st_mtime, footer)
            for file, footer in position.waiting_shards(self.database, self.paths.shards)
            if footer.campaign == self.status.name
        ]
        written = [each for each in waiting if each[0] >= began.replace(tzinfo=UTC).timestamp()]
        if written:
            footer = max(written, key=lambda each: each[0])[1]
            if (footer.iteration, footer.purpose) != (place.iteration, place.step):
                place = Position(footer.iteration, footer.purpose)
        elif not gone_on or place.step is None:
            return Work(start)
        work = Work(start, place.iteration, place.step, place.control)
        # a guard's suite is of another size
        if place.step not in ROLL_OUTS or place.measured >= 2:
            return work
        done = sum((each.iteration, each.purpose) == (place.iteration, place.step) for _, each in waiting)
        planned = position.planned_shards(self.stored, place.step, place.looks)
        if done > planned:
            return work
        return self._timed(replace(work, done=done, of=planned, unit="shards of episodes"))

    def _timed(self, work: Work) -> Work:
        """With the time that is left, and for training the steps, where they are known."""
        if work.step == "train" and (steps := self._optimizer_steps(work)):
            return steps
        usual = self._usual(work.step)
        if usual is None:
            return work
        if work.done and work.of:
            return replace(work, seconds_left=usual * (1 - work.done / work.of))
        left = usual - (now() - work.since).total_seconds()
        return replace(work, seconds_left=left) if left > 0 else work

    def _usual(self, step: str | None) -> float | None:
        spans = query.rows(self.database, "spans", campaign=self.status.name, iteration=self.like)
        return next((each["seconds"] for each in spans if each["phase"] == step), None)

    def _optimizer_steps(self, work: Work) -> Work | None:
        """From what the trainer writes down, in lumps: the time since the last of them has passed as well."""
        rows = self.database.execute(
            """
            SELECT adapter FROM training_runs
            WHERE campaign = ? AND iteration = ? AND finished IS NULL ORDER BY started DESC LIMIT 1
            """,
            [self.status.name, work.iteration],
        )
        if not rows:
            return None
        file = self.paths.checkpoints / f"{rows[0][0]}.metrics.jsonl"
        lines = _metrics(file)
        if not lines:
            return None
        newest = lines[-NEWEST_STEPS:]
        done, of = newest[-1]["step"], newest[-1]["steps"]
        passed = max(0.0, now().replace(tzinfo=UTC).timestamp() - file.stat().st_mtime)
        left = (of - done) * sum(each["seconds"] for each in newest) / len(newest) - passed
        return replace(work, done=done, of=of, unit="steps", seconds_left=left if left > 0 else None)


def state(database: Database, campaign: str, paths: Paths, owner: Owner | None) -> State:
    """Return what the campaign's page says at its head. `owner`: who has the data root now."""
    found = stand(database, campaign, paths, owner)
    made = runs.of_campaign(database, campaign)
    link = made[-1].link if made else None
    if found.work is not None:
        left = found.time_left
        rest = f"; about {duration(left.campaign)} of all iterations left" if left else ""
        return State("working", f"At work: {told(found.work)}{rest}.", link=link)
    last = found.status.last
    fault = last.error if last else None
    kind, said = of_runs(made, at_work=False, complete=found.complete, fault=fault)
    if kind == "stopped":
        step = f" The step {last} {summary.outcome(last)}." if last and last.error and last.error not in said else ""
        sentence = said[:1].upper() + said[1:]
        return State(
            kind, f"The last run stopped. {sentence}.{step}".replace("..", "."), _advice(database, found), link
        )
    if kind == "complete" or found.complete:
        return State("complete", "Complete: a run would find nothing left to do.", link=link)
    said = f"Nobody is at work; {found.status.done} of {found.status.planned} iterations are complete."
    return State("paused", said, _advice(database, found), link)


def _advice(database: Database, found: Standing) -> str:
    """What to do about a campaign that is not complete."""
    name, last = found.status.name, found.status.last
    if (
        last is not None
        and last.name == "judge"
        or found.status.done == 0
        and last is not None
        and last.name == "select"
    ):
        offer = families.offer(families.unsolved(database, name))
        if offer:
            return offer
    if taught_bases.of_campaign(database, name) or name.startswith(TEACHING):
        return "The same agentloop teach continues; what is done is kept."
    place = position.find(database, name, iterations=found.status.planned, control=False)
    if place.step and place.begun:
        where = f"continues at {place.of}, step {place.step}"
    else:
        where = f"goes on with iteration {place.iteration}"
    return f"agentloop run with the settings of the campaign {where}; what is done is kept."


def told(work: Work) -> str:
    """The work in a line, for people."""
    step = "at work" if work.step is None else work.step
    if work.iteration:
        step += " for the control" if work.control else f" of iteration {work.iteration}"
    text = f"{step} since {work.since:%H:%M:%S} UTC"
    if work.of is not None:
        text += f", {work.done} of {work.of} {work.unit}"
    if work.seconds_left is not None:
        text += f", about {duration(work.seconds_left)} left"
    return text


def duration(seconds: float) -> str:
    """A length of time, roughly."""
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{hours:g} h"


def _began(owner: Owner) -> datetime | None:
    """When a run took the data root; None where it has not written it down yet."""
    try:
        return datetime.fromisoformat(owner.started)
    except ValueError:
        return None


def _metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's journal; none where there is no journal yet."""
    try:
        return [json.loads(line) for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    except (OSError, ValueError):
        return []


def _reference(database: Database, campaign: str) -> dict[str, Any] | None:
    """The newest complete iteration that nothing has interrupted for long: `{iteration, seconds}`."""
    for each in query.rows(database, "complete", campaign=campaign):
        if each["at_one_go"] or (each["covered"] or 0) >= COVERED:
            return each
    return None


def _time_left(database: Database, status: CampaignStatus, like: dict[str, Any]) -> TimeLeft | None:
    """None where the present iteration was begun by an earlier run, and takes longer than the one it is compared with."""
    rows = database.execute(
        """
        SELECT i.iteration, i.started FROM iterations i JOIN campaigns c ON c.name = i.campaign
        WHERE i.campaign = ? AND i.finished IS NULL AND i.iteration > 0 AND i.started >= c.updated
        """,
        [status.name],
    )
    if len(rows) != 1:
        return None
    ((iteration, started),) = rows
    left = like["seconds"] - (now() - started).total_seconds()
    if left <= 0:
        return None
    return TimeLeft(left, left + max(0, status.planned - iteration) * like["seconds"], like["iteration"])
