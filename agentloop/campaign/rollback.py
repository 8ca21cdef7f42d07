"""The champion pointer, moved by hand."""

from __future__ import annotations

from agentloop.store import adapters, campaigns, champions
from agentloop.store.database import Database

BASE = "base"


def roll_back(database: Database, campaign: str, target: str | None, *, reason: str) -> tuple[str | None, str | None]:
    """Make an earlier champion champion again: an adapter, `base`, or with None whom the champion replaced.

    The next iteration starts from it; one that was interrupted starts again. Returns (champion before, champion now).
    Raises StoreError where the campaign is unknown or the target was never champion, AdapterError where its weights are
    gone; then nothing has moved.
    """
    campaigns.settings_json(database, campaign)  # an unknown campaign is an error
    before = champions.champion(database, campaign)
    if target is None:
        after = champions.predecessor(database, campaign)
    else:
        after = None if target == BASE else target
    with database.transaction():
        champions.rollback(database, campaign, after, reason=reason)
        if after:
            adapters.weights(database, after)
    return before, after
