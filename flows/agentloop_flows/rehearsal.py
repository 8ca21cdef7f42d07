"""A notice that is sent on every way, to see that it arrives."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from agentloop.notices import sending
from agentloop.notices.notice import Notice
from agentloop.notices.sending import Outcome
from agentloop.settings import Settings
from agentloop_flows import automations, connection, services, telling

_LONGEST = 30.0
"""Seconds that Prefect may take from an event to what its automation has done, and has written down that it has."""


def notices(settings: Settings) -> list[Outcome]:
    """Send a test on every way that the settings name; Prefect's block last."""
    link = connection.address(settings) if services.is_up(settings) else None
    notice = Notice(("test",), "A test of how you are told: nothing has happened.", settings.campaign, link)
    outcomes = sending.send(notice, settings.notify)
    if settings.notify.block is not None:
        outcomes.append(_through_prefect(settings, notice))
    return outcomes


def _through_prefect(settings: Settings, notice: Notice) -> Outcome:
    way = f"Prefect's block {settings.notify.block}"
    if not services.is_up(settings):
        return Outcome(way, "the Prefect server is not up; agentloop up starts it")
    lines = automations.settle(settings, work_pool=services.WORK_POOL)
    if any(line.startswith("notify.block") for line in lines):
        return Outcome(way, lines[0].partition(": ")[2])
    begun = datetime.now(UTC) - timedelta(seconds=1)
    with connection.client(settings) as client:
        telling.emit(client, notice)
        deadline = time.monotonic() + _LONGEST
        while time.monotonic() < deadline:
            found = automations.outcome(client, begun)
            if found is not None:
                return Outcome(way, None if found else "Prefect could not send it; its Event Feed says why")
            time.sleep(0.5)
    return Outcome(
        way, f"Prefect has not sent it within {_LONGEST:.0f} s; is the automation on, and what do its events say?"
    )
