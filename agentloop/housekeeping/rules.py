"""The rules: what may go, as pure functions over facts and ages. Each returns why something stays; None where it may go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from agentloop.housekeeping.facts import AdapterFacts, ShardFacts
from agentloop.settings import Retention

DAY = 86_400.0


@dataclass(frozen=True)
class ShardChoice:
    """The shards that somebody asks to be removed: those of a campaign, or those that came so many days ago, or both."""

    campaign: str | None = None
    days: float | None = None

    def __str__(self) -> str:
        campaign = "" if self.campaign is None else f"--campaign {self.campaign}"
        days = "" if self.days is None else f"--older-than {self.days:g}"
        return f"{campaign} {days}".strip()


def adapter(facts: AdapterFacts, retention: Retention, now: datetime) -> str | None:
    """An adapter goes that no champion is or descends from, once it is old enough and newer iterations have come."""
    if facts.pruned:
        return None  # its removal has begun
    if facts.champion:
        return "was champion"
    if facts.ancestor:
        return "a champion or a taught base descends from it"
    if facts.open:
        return "its iteration is not finished"
    if now - facts.made <= timedelta(days=retention.adapter_days):
        return "younger than retention.adapter_days"
    if facts.newer is not None and facts.newer < retention.adapter_iterations:
        return "of the newest retention.adapter_iterations"
    return None


def shard(facts: ShardFacts, choice: ShardChoice | None, now: datetime) -> str | None:
    """A shard goes that is asked for, where nothing was measured with it, and its iteration is finished.

    Rows that a dataset holds stay, in a shard of their own.
    """
    if facts.pruned:
        return None  # its removal has begun
    if choice is None:
        return "not asked for"
    if choice.campaign is not None and facts.campaigns != {choice.campaign}:
        return "of another campaign"
    if choice.days is not None and now - facts.seen <= timedelta(days=choice.days):
        return "younger than asked for"
    if facts.measured:
        return "an evaluation or a taught base was made of it"
    if facts.open:
        return "its iteration is not finished"
    return None


def aged(seconds: float, days: float, now: float) -> bool:
    """Return True where something of that time (since 1970) is older than so many days."""
    return now - seconds > days * DAY
