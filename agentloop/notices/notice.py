"""A notice: one line that says what happened, and where more is to be seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentloop.settings.sections import Event

TITLES: dict[str, str] = {
    "failed": "a run failed",
    "disk_low": "disk low",
    "stalled": "nothing promoted",
    "promoted": "promoted",
    "done": "a run is done",
    "test": "a test",
}
"""Titles by event, the most urgent first: of several events in one notice the first one gives the title."""


@dataclass(frozen=True)
class Notice:
    """One message, whatever it is told through."""

    events: tuple[Event | str, ...]
    """Everything that it tells at once; a run that promoted is done as well."""
    line: str
    """The verdict, on one line."""
    campaign: str | None = None
    link: str | None = None
    """The run in Prefect's UI."""
    report: str | None = None
    """Path of the report."""

    @property
    def event(self) -> str:
        """The most urgent of its events."""
        return next(event for event in TITLES if event in self.events)

    @property
    def title(self) -> str:
        """Return the subject of an email, the heading of a push message."""
        return f"agentloop: {TITLES[self.event]}"

    @property
    def text(self) -> str:
        """The line, and below it the link and the report."""
        more = {"Run": self.link, "Report": self.report}
        return "\n".join([self.line, *(f"{name}: {where}" for name, where in more.items() if where)])

    @property
    def body(self) -> dict[str, Any]:
        """The notice as JSON.

        `text` is what Slack, Mattermost, Google Chat's and Rocket.Chat's webhooks show, `content` what Discord's shows; the
        rest is for programs and templates.
        """
        whole = f"{self.title}\n{self.text}"
        return {
            "text": whole,
            "content": whole,
            "title": self.title,
            "message": self.text,
            "event": self.event,
            "events": list(self.events),
            "line": self.line,
            "campaign": self.campaign,
            "link": self.link,
            "report": self.report,
        }

    def wanted(self, on: Iterable[str]) -> bool:
        """Return True where one of its events is among those that somebody wants to be told of."""
        return bool({*on, "test"} & set(self.events))
