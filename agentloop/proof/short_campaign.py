"""What a short campaign came to, read from its own data root."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agentloop.campaign import results
from agentloop.report import query
from agentloop.settings import Settings
from agentloop.store import campaigns
from agentloop.store.database import Database

SOLVED_NOTHING = "the base model solved nothing"
NOTHING_TO_LEARN = "no trajectory was left to train on"
_COLLECTED = """
SELECT count(*), count(*) FILTER (s.success >= 0.5)
FROM collected c LEFT JOIN v_success s ON s.trajectory = c.trajectory
WHERE c.campaign = $campaign AND c.purpose = 'collect'
"""


def begun(settings: Settings) -> bool:
    """Return True where there is anything of it, so that its whole time is not to be had any more."""
    if not settings.paths.database.is_file():
        return False
    with Database.open_snapshot(settings.paths.database) as database:
        return settings.campaign in campaigns.names(database)


def outcome(settings: Settings) -> dict[str, Any]:
    """`{outcome, collected, solved, phases, …}`, JSON values.

    `outcome` is the gate's decision, None where there is none.
    """
    name = settings.campaign
    with Database.open_snapshot(settings.paths.database) as database:
        [(collected, solved)] = database.execute(_COLLECTED, {"campaign": name})
        rows = results.iterations(database, name)
        phases = {row["part"]: round(row["seconds"], 1) for row in query.rows(database, "times", campaign=name)}
    judged = rows[0] if rows and rows[0].decision is not None else None
    told = {
        "outcome": judged.decision if judged else None,
        "environment_tasks": settings.collect.tasks,
        "samples": settings.collect.samples,
        "collected": collected,
        "solved": solved,
        "heldout_tasks": settings.evaluate.tasks,
        "heldout_samples": settings.evaluate.samples,
        "phase_seconds": phases,
    }
    if judged is None:
        return told
    return told | {
        "rows_trained_on": judged.rows,
        "base_success": asdict(judged.before),
        "adapter_success": asdict(judged.after),
        "difference": asdict(judged.difference),
        "mcnemar_p": judged.mcnemar_p,
    }


def without_rows(settings: Settings) -> dict[str, Any]:
    """Return what came of a campaign whose selection left nothing to train on."""
    told = outcome(settings)
    return told | {"outcome": NOTHING_TO_LEARN if told["solved"] else SOLVED_NOTHING}
