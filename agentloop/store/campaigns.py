"""Campaigns: one series of iterations with the settings that define it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentloop.errors import StoreError
from agentloop.naming import canonical_json
from agentloop.settings import Settings
from agentloop.store.clock import now
from agentloop.store.database import Database

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
    "training.bounds",
    "training.checkpoint_steps",
    "training.max_quantization_loss",
    "training.memory_budget",
    "training.stall_seconds",
    "gate.control",
    "night",
    "teach",
    "notify",
    "retention",
    "report",
)
"""Settings and sections that may change while a campaign lasts: where things lie, how fast and how long it goes."""

QUANTIZATION = "training.quantization"

DEFINING_ALL_THE_SAME = ("serving.dtype", "serving.base")
"""Exceptions to FREE: they change what the model says."""

USED_BY_A_CAMPAIGN = (
    "collected",
    "shard_uses",
    "evaluation_uses",
    "steps",
    "iterations",
    "gpu_phases",
    "process_times",
)
"""Tables with what a campaign that has collected nothing may have used: measurements, and what led to them."""


@dataclass(frozen=True)
class Change:
    """A setting that differs from what its campaign began with."""

    name: str
    """With dots."""
    began: Any
    now: Any


def register(database: Database, settings: Settings, *, quantization: str | None = None) -> None:
    """Begin the campaign `settings.campaign`, or continue it. `quantization`: what "auto" has come to mean for it.

    Raises StoreError, in one line that names the setting with both values, where a setting that defines the campaign
    (model, environment, seed, agent, selection, …) differs from what it began with. Paths, most of serving, the number
    of iterations and what only affects speed may change. A campaign that has collected nothing yet begins anew with the
    new settings: what was measured under the others stays in the database, and is no longer part of the campaign.
    """
    # what is told to whom is a matter of the machine, and may be a secret
    resolved, defining = settings.model_dump(mode="json", exclude={"notify"}), defining_settings(settings)
    if quantization is not None:
        defining[QUANTIZATION] = quantization
    with database.transaction():
        rows = database.execute("SELECT defining, settings FROM campaigns WHERE name = ?", [settings.campaign])
        if rows:
            if changed := _changes(_began(*rows[0]), defining):
                if has_collected(database, settings.campaign):
                    raise StoreError(_refusal(settings.campaign, changed))
                for table in USED_BY_A_CAMPAIGN:
                    database.execute(f"DELETE FROM {table} WHERE campaign = ?", [settings.campaign])
            database.execute(
                "UPDATE campaigns SET defining = ?, settings = ?, updated = ? WHERE name = ?",
                [canonical_json(defining), canonical_json(resolved), now(), settings.campaign],
            )
        else:
            database.execute(
                """
                INSERT INTO campaigns
                VALUES ($name, $defining, $settings, $now, $now, (SELECT coalesce(max(number), 0) + 1 FROM campaigns))
                """,
                {
                    "name": settings.campaign,
                    "defining": canonical_json(defining),
                    "settings": canonical_json(resolved),
                    "now": now(),
                },
            )


def changes(database: Database, settings: Settings) -> list[Change]:
    """The settings that define the campaign `settings.campaign` and differ from what it began with; none where it is new.

    What "auto" means is not asked for: a campaign that has begun keeps to what it has chosen.
    """
    rows = database.execute("SELECT defining, settings FROM campaigns WHERE name = ?", [settings.campaign])
    if not rows:
        return []
    began, defining = _began(*rows[0]), defining_settings(settings)
    if defining[QUANTIZATION] == "auto":
        defining[QUANTIZATION] = quantization(database, settings) or began.get(QUANTIZATION)
    return _changes(began, defining)


def refuse(database: Database, settings: Settings) -> None:
    """Raises StoreError where `register` would."""
    changed = changes(database, settings)
    if changed and has_collected(database, settings.campaign):
        raise StoreError(_refusal(settings.campaign, changed))


def defining_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that may not change while a campaign lasts: {name with dots: JSON value}."""
    return {name: value for name, value in _flat(settings.model_dump(mode="json")).items() if defines(name)}


def defines(name: str) -> bool:
    """Return True where the setting with this dotted name may not change while a campaign lasts."""
    return name in DEFINING_ALL_THE_SAME or not any(name == free or name.startswith(f"{free}.") for free in FREE)


def quantization(database: Database, settings: Settings) -> str | None:
    """Return what training.quantization = "auto" means for the campaign `settings.campaign` because it has begun with it; None
    for one that is still free to choose.
    """
    rows = database.execute("SELECT defining, settings FROM campaigns WHERE name = ?", [settings.campaign])
    if not rows:
        return None
    began, newest = _began(*rows[0]), _flat(json.loads(rows[0][1]))
    chosen = newest.get(QUANTIZATION) == "auto" and newest["model"] == settings.model
    return began.get(QUANTIZATION) if chosen or has_collected(database, settings.campaign) else None


def names(database: Database) -> list[str]:
    """Campaigns, newest first."""
    return [name for (name,) in database.execute("SELECT name FROM campaigns ORDER BY number DESC")]


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


def finished(database: Database, campaign: str) -> int:
    """Return how many iterations of the campaign are complete; 0 for one that is not there."""
    ((count,),) = database.execute(
        "SELECT count(*) FROM iterations WHERE campaign = ? AND finished IS NOT NULL", [campaign]
    )
    return count


def begin_iteration(database: Database, campaign: str, iteration: int, *, champion: str | None) -> None:
    """Note that an iteration begins with this champion (adapter id, None for the base), or begins again after a rollback."""
    database.execute(
        """
        INSERT INTO iterations VALUES (?, ?, ?, ?, NULL, NULL)
        ON CONFLICT DO UPDATE SET champion = excluded.champion WHERE iterations.finished IS NULL
        """,
        [campaign, iteration, champion, now()],
    )


def has_begun(database: Database, campaign: str, iteration: int) -> bool:
    rows = database.execute("SELECT 1 FROM iterations WHERE campaign = ? AND iteration = ?", [campaign, iteration])
    return bool(rows)


def finish_iteration(database: Database, campaign: str, iteration: int) -> None:
    """Note that an iteration is complete."""
    database.execute(
        """
        UPDATE iterations
        SET finished = $now, moves = (SELECT count(*) FROM champions WHERE campaign = $campaign)
        WHERE campaign = $campaign AND iteration = $iteration AND finished IS NULL
        """,
        {"now": now(), "campaign": campaign, "iteration": iteration},
    )


def _began(defining: str, settings: str) -> dict[str, Any]:
    """The settings that define a campaign as it began with them, under the names that they have now."""
    # a setting may have come, or begun to define a campaign, after this one had begun
    newest = {name: value for name, value in _flat(json.loads(settings)).items() if defines(name)}
    began = newest | json.loads(defining)
    in_4bit = began.pop("training.load_in_4bit", None)
    return began if in_4bit is None else {QUANTIZATION: "nf4" if in_4bit else "none"} | began


def has_collected(database: Database, campaign: str) -> bool:
    """Return True where the campaign has anything to learn from, episodes that failed included: its settings stay then."""
    rows = database.execute(
        """
        SELECT 1 FROM shard_uses WHERE campaign = $campaign AND purpose = 'collect'
        UNION ALL
        SELECT 1 FROM collected WHERE campaign = $campaign AND purpose = 'collect'
        LIMIT 1
        """,
        {"campaign": campaign},
    )
    return bool(rows)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The settings that differ, by name."""
    # a setting that the campaign began without did what is the default now
    defaults = _flat(Settings.model_construct().model_dump(mode="json"))
    # what defined a campaign under an older version may be free by now
    names = filter(defines, sorted(before.keys() | after.keys()))
    pairs = ((name, *(values.get(name, defaults.get(name)) for values in (before, after))) for name in names)
    return [Change(name, began, now) for name, began, now in pairs if began != now]


def _refusal(campaign: str, changed: Sequence[Change]) -> str:
    first, *others = changed
    as_well = f" ({', '.join(each.name for each in others)} changed as well)" if others else ""
    return (
        f"{first.name}: campaign {campaign!r} began with {first.began!r}, now it is {first.now!r}{as_well}; set it back or "
        "choose another campaign name"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
