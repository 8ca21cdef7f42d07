"""Runs: from when to when a process was at work on a campaign, and how that ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

from agentloop.store.clock import now
from agentloop.store.database import Database

KILLED = "killed: its process ended before the run did"


@dataclass(frozen=True)
class FlowRun:
    """A run as Prefect knows it."""

    id: str
    flow: str | None = None
    """self-improve, evaluate, teach."""
    link: str | None = None
    """Its page in Prefect's UI."""


@dataclass(frozen=True)
class Run:
    number: int
    campaign: str
    flow: str | None
    flow_run: str | None
    link: str | None
    started: datetime
    """UTC."""
    finished: datetime | None
    """None while it is at work, or where it was killed and nobody has taken note yet."""
    error: str | None
    """One line; None where it came to its end, or is at work."""


def begin(database: Database, campaign: str, flow_run: FlowRun | None = None) -> int:
    """Note that a run begins, and return its number. A flow that takes the data root again goes on with the run that it has."""
    about = flow_run or FlowRun("")
    again = database.execute(
        """
        UPDATE runs SET finished = NULL, error = NULL
        WHERE campaign = ? AND flow_run = ? AND process = ? RETURNING number
        """,
        [campaign, about.id, os.getpid()],
    )
    if again:
        return again[0][0]
    ((number,),) = database.execute(
        """
        INSERT INTO runs
        VALUES ((SELECT coalesce(max(number), 0) + 1 FROM runs), ?, ?, ?, ?, ?, ?, NULL, NULL)
        RETURNING number
        """,
        [campaign, about.flow, about.id or None, about.link, os.getpid(), now()],
    )
    return number


def end(database: Database, number: int, *, error: str | None = None) -> None:
    """Note that the run has ended, by an error where there is one."""
    database.execute("UPDATE runs SET finished = ?, error = ? WHERE number = ?", [now(), error, number])


def note_killed(database: Database) -> None:
    """Note as killed what has not ended. Only for the owner of the data root: nobody else is at work."""
    database.execute(
        """
        UPDATE runs
        SET error = $error, finished = greatest(started, (
            SELECT max(moment) FROM (
                SELECT max(coalesce(finished, started)) AS moment FROM steps WHERE steps.campaign = runs.campaign
                UNION ALL
                SELECT max(finished) FROM gpu_phases WHERE gpu_phases.campaign = runs.campaign
                UNION ALL
                SELECT max(started + to_microseconds((1e6 * seconds)::BIGINT))
                FROM process_times WHERE process_times.campaign = runs.campaign
            )
        ))
        WHERE finished IS NULL
        """,
        {"error": KILLED},
    )


def of_campaign(database: Database, campaign: str) -> list[Run]:
    """Every run of a campaign, the oldest first."""
    names = list(Run.__dataclass_fields__)
    rows = database.execute(f"SELECT {', '.join(names)} FROM runs WHERE campaign = ? ORDER BY number", [campaign])
    return [Run(**dict(zip(names, row, strict=True))) for row in rows]
