"""What a campaign's page says at its head: whether a run is at work, how the last one ended, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from agentloop.store.runs import KILLED, Run

Kind = Literal["working", "complete", "paused", "stopped"]
"""At work, nothing left to do, ended with more to do, ended by an error."""


@dataclass(frozen=True)
class State:
    kind: Kind
    said: str
    """One sentence."""
    advice: str = ""
    """What to do next; empty where there is nothing."""
    link: str | None = None
    """The page of the last run in Prefect's UI."""


def of_runs(runs: Sequence[Run], *, at_work: bool, complete: bool, fault: str | None = None) -> tuple[Kind, str]:
    """Tell from the runs of a campaign how it stands, in a word or with the error of the last run.

    `fault`: the error of the step that ended last; a run may end in order after a step that failed.
    """
    if at_work:
        return "working", "at work"
    last = runs[-1] if runs else None
    if last is not None and last.finished is None:
        return "stopped", KILLED
    if last is not None and last.error:
        return "stopped", last.error
    if fault and not complete:
        return "stopped", fault
    return ("complete", "complete") if complete else ("paused", "ended")


def ended(run: Run) -> datetime:
    """When a run ended, or when it was begun where nobody has seen its end."""
    return run.finished or run.started
