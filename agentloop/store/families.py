"""Families of tasks, as a campaign met them (the view v_families)."""

from __future__ import annotations

from dataclasses import dataclass

from agentloop.store.database import Database
from agentloop.store.shards import Purpose


@dataclass(frozen=True)
class Family:
    environment: str
    name: str
    tasks: int
    trajectories: int
    solved: int
    """Of the trajectories."""


def met(database: Database, campaign: str, purpose: Purpose) -> list[Family]:
    """Return what became of each family over all iterations, by name. `tasks` counts one that two iterations met twice."""
    rows = database.execute(
        """
        SELECT environment, family, sum(tasks)::BIGINT, sum(trajectories)::BIGINT, sum(solved)::BIGINT
        FROM v_families WHERE campaign = ? AND purpose = ? GROUP BY environment, family ORDER BY environment, family
        """,
        [campaign, purpose],
    )
    return [Family(*row) for row in rows]


def unsolved(database: Database, campaign: str) -> list[Family]:
    """Families that the campaign tried and never solved: there is nothing to learn them from."""
    return [family for family in met(database, campaign, "collect") if not family.solved]


def offer(families: list[Family]) -> str:
    """One line for a person about families that were never solved; empty where there are none."""
    if not families:
        return ""
    named = ", ".join(f"{family.name} ({family.trajectories:,} episodes)" for family in families)
    options = " ".join(f"--family {family.name}" for family in families)
    return f"Never solved, so never learnt: {named}. Demonstrations help: agentloop teach {options}"
