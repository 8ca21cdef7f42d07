"""Campaigns: one series of iterations with the settings that define it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentloop.errors import StoreError
from agentloop.naming import canonical_json
from agentloop.settings import Settings
from agentloop.store.database import Database, now

FREE = (
    "campaign",
    "iterations",
    "paths",
    "prefect_port",
    "serving",
    "collect.concurrency",
    "collect.episode_seconds",
    "collect.tool_seconds",
    "collect.tool_memory",
    "collect.attempts",
    "collect.max_failed",
    "training.checkpoint_steps",
    "training.memory_budget",
    "training.stall_seconds",
    "gate.control",
)
"""Settings and sections that may change while a campaign lasts: where things lie, how fast and how long it goes."""

DEFINING_ALL_THE_SAME = ("serving.dtype",)
"""Exceptions to FREE: the number format changes what the model says."""


def register(database: Database, settings: Settings) -> None:
    """Begin the campaign `settings.campaign`, or continue it.

    Raises StoreError, in one line that names the setting with both values, where a setting that defines the campaign
    (model, environment, seed, agent, selection, …) differs from what it began with. Paths, serving, the number of
    iterations and what only affects speed may change.
    """
    resolved = settings.model_dump(mode="json")
    defining = {name: value for name, value in _flat(resolved).items() if _defines(name)}
    with database.transaction():
        rows = database.execute("SELECT defining FROM campaigns WHERE name = ?", [settings.campaign])
        if rows:
            _compare(settings.campaign, json.loads(rows[0][0]), defining)
            database.execute(
                "UPDATE campaigns SET settings = ?, updated = ? WHERE name = ?",
                [canonical_json(resolved), now(), settings.campaign],
            )
        else:
            database.execute(
                "INSERT INTO campaigns VALUES ($name, $defining, $settings, $now, $now)",
                {
                    "name": settings.campaign,
                    "defining": canonical_json(defining),
                    "settings": canonical_json(resolved),
                    "now": now(),
                },
            )


def names(database: Database) -> list[str]:
    """Campaigns, newest first."""
    return [name for (name,) in database.execute("SELECT name FROM campaigns ORDER BY started DESC, name")]


def settings_json(database: Database, campaign: str) -> dict[str, Any]:
    """The resolved settings that the campaign was last run with. Raises StoreError for an unknown campaign."""
    rows = database.execute("SELECT settings FROM campaigns WHERE name = ?", [campaign])
    if not rows:
        raise StoreError(
            f"{database.path}: no campaign named {campaign!r} (there are: {', '.join(names(database)) or 'none'})"
        )
    return json.loads(rows[0][0])


def newest_iteration(database: Database, campaign: str) -> int:
    """The last one that collected. Raises StoreError, naming those that have, where the campaign has collected nothing."""
    ((newest,),) = database.execute(
        "SELECT max(iteration) FROM collected WHERE campaign = ? AND purpose = 'collect'", [campaign]
    )
    if newest is None:
        known = ", ".join(name for (name,) in database.execute("SELECT DISTINCT campaign FROM collected ORDER BY 1"))
        raise StoreError(f"campaign: {campaign!r} has collected nothing yet (there are: {known or 'none'})")
    return newest


def begin_iteration(database: Database, campaign: str, iteration: int, *, champion: str | None) -> None:
    """Note that an iteration begins with this champion (adapter id, None for the base), or begins again after a rollback."""
    database.execute(
        """
        INSERT INTO iterations VALUES (?, ?, ?, ?, NULL)
        ON CONFLICT DO UPDATE SET champion = excluded.champion WHERE iterations.finished IS NULL
        """,
        [campaign, iteration, champion, now()],
    )


def finish_iteration(database: Database, campaign: str, iteration: int) -> None:
    """Note that an iteration is complete."""
    database.execute(
        "UPDATE iterations SET finished = ? WHERE campaign = ? AND iteration = ? AND finished IS NULL",
        [now(), campaign, iteration],
    )


def _compare(campaign: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    # a setting that the campaign began without did what is the default now
    defaults = _flat(Settings.model_construct().model_dump(mode="json"))
    # what defined a campaign under an older version may be free by now
    for name in filter(_defines, sorted(before.keys() | after.keys())):
        began, now = (values.get(name, defaults.get(name)) for values in (before, after))
        if began != now:
            raise StoreError(
                f"{name}: campaign {campaign!r} began with {began!r}, now it is {now!r}; "
                "set it back or choose another campaign name"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _defines(name: str) -> bool:
    return name in DEFINING_ALL_THE_SAME or not any(name == free or name.startswith(f"{free}.") for free in FREE)
