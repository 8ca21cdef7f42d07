"""How the base of a campaign was judged before anything was trained on it: results of the steps `judge` and `compare`."""

from __future__ import annotations

import json
from typing import Any

from agentloop.store.database import Database


def newest(database: Database, campaign: str) -> dict[str, Any] | None:
    """The newest judgement, as agentloop.campaign.judge.judge returns it; None where there is none."""
    rows = database.execute(
        """
        SELECT name, result FROM steps
        WHERE campaign = ? AND status = 'done' AND name IN ('judge', 'compare')
        ORDER BY ended
        """,
        [campaign],
    )
    found = {name: json.loads(result) for name, result in rows}
    return found["judge"] | {"success": found.get("compare")} if "judge" in found else None
