"""Ids as people type them: their beginning, with or without the word in front, where that is enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentloop.errors import StoreError

if TYPE_CHECKING:
    from agentloop.store.database import Database

NAMED = 3
"""Candidates that an ambiguous beginning is answered with."""

_IDS = {
    "adapter": "SELECT id, campaign FROM adapters LEFT JOIN candidates ON adapter = id",
    "trajectory": "SELECT id, campaign FROM trajectories LEFT JOIN collected ON trajectory = id",
    "task": "SELECT t.task, c.campaign FROM trajectories t LEFT JOIN collected c ON c.trajectory = t.id",
}
"""By kind: all ids with the campaigns that they belong to. A task counts as soon as it has a trajectory."""
_FIRST = {"trajectory": "traj"}
"""What ids begin with, where that is not the kind itself."""


def whole(database: Database, kind: str, beginning: str, *, campaign: str | None = None) -> str:
    """The one id of this kind that begins like this, `campaign` leaving only those of that campaign.

    Raises StoreError, in one line, where there is none, and where there are several: it names the first of them.
    """
    rows = database.execute(
        f"""
        SELECT DISTINCT id FROM ({_IDS[kind]}) AS known(id, campaign)
        WHERE (starts_with(id, $beginning) OR starts_with(id, $first || '_' || $beginning))
          AND ($campaign IS NULL OR campaign = $campaign)
        ORDER BY id
        """,
        {"beginning": beginning, "first": _FIRST.get(kind, kind), "campaign": campaign},
    )
    of_it = f" of campaign {campaign!r}" if campaign else ""
    found = only(kind, beginning, (name for (name,) in rows))
    if found is None:
        raise StoreError(f"{database.path}: no {kind} {beginning or repr(beginning)}{of_it}")
    return found


def only(kind: str, beginning: str, names: Iterable[str]) -> str | None:
    """The one of the names that begins like this; None where none does. Raises StoreError where several do."""
    if not beginning:
        return None  # everything begins like this, which nobody means
    starts = (beginning, f"{_FIRST.get(kind, kind)}_{beginning}")
    found = sorted({name for name in names if name.startswith(starts)})
    if beginning in found or len(found) < 2:
        return beginning if beginning in found else next(iter(found), None)
    more = ", …" if len(found) > NAMED else ""
    raise StoreError(
        f"{beginning}: {len(found)} ids begin like this: {', '.join(found[:NAMED])}{more}; type more of it"
    )
