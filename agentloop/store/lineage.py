"""Lineage: from an adapter back to the rows, policies, settings and code that made it, and forward to what became of it."""

from __future__ import annotations

from typing import Any

from agentloop.store.database import Database


def lineage(database: Database, adapter_id: str) -> dict[str, Any]:
    """What made an adapter, as nested plain values.

    Keys: adapter, base, seed, code, settings, path, campaign, iteration, role; dataset {id, recipe, parameters, rows,
    funnel}; sources [{policy, adapter, iteration, rows, tasks}]; evaluations [{id, role, success, tasks, samples}];
    verdicts [{id, decision, difference, p, reason}]; champion_since; parent (the lineage of the adapter that training
    started from, or None); ancestors (adapters whose trajectories it was trained on). Raises StoreError for an unknown id.
    """
    raise NotImplementedError
