"""Lineage: from an adapter back to the rows, policies, settings and code that made it, and on to what became of it.

The rows themselves are in the view `v_lineage`, one line each.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from agentloop.store import adapters, datasets, evaluations, pruned, taught_bases
from agentloop.store.database import Database

QUERIES = Path(__file__).parent / "lineage"


def lineage(database: Database, adapter_id: str) -> dict[str, Any]:
    """Return what made an adapter and what became of it, as nested JSON values.

    Keys: adapter, base, seed, code, settings (of training), path; pruned {pruned, bytes, digest}, where its files were removed,
    else None; uses [{campaign, iteration, role, funnel}]; dataset
    {id, recipe, parameters, rows}; sources [{policy, adapter, base, rows, tasks}], the policies that produced the rows;
    training (the run), evaluations, verdicts, champion (each a list); taught [{name, base, student, source, dataset, rows,
    adapter, campaign, before, after}], how demonstrations made the base of another one, that one of a third and so on; parent,
    the lineage of the adapter that training started from; ancestors {adapter: lineage of an adapter whose trajectories it was
    trained on, without its own parent and ancestors}. Raises StoreError for an unknown id.
    """
    story = _story(database, adapter_id)
    parent = adapters.load(database, adapter_id).parent
    story["parent"] = None if parent is None else lineage(database, parent)
    story["ancestors"] = {name: _story(database, name) for name in _ancestors(database, adapter_id)}
    return story


def story(database: Database, adapter_id: str) -> dict[str, Any]:
    """Return the same of this adapter alone: `parent` has its name only, and there are no ancestors.

    However many adapters there were before it, this takes as long. Raises StoreError for an unknown id.
    """
    parent = adapters.load(database, adapter_id).parent
    return _story(database, adapter_id) | {"parent": None if parent is None else {"adapter": parent}}


def rows(database: Database, adapter_id: str) -> list[dict[str, Any]]:
    """Every row that an adapter was trained on: position, trajectory, task, question, policy, adapter, shard.

    Raises StoreError for an unknown id.
    """
    adapters.load(database, adapter_id)
    return _records(database, "rows", adapter_id)


def _story(database: Database, adapter_id: str) -> dict[str, Any]:
    adapter = adapters.load(database, adapter_id)
    dataset = datasets.load(database, adapter.dataset)
    return {
        "adapter": adapter_id,
        "base": adapter.base,
        "seed": adapter.seed,
        "code": adapter.code,
        "settings": adapter.training,
        "path": str(adapters.directory(database, adapter_id)),
        "pruned": _pruned(pruned.adapters(database).get(adapter_id)),
        "uses": [use | {"funnel": json.loads(use["funnel"] or "[]")} for use in _records(database, "uses", adapter_id)],
        "dataset": {
            "id": adapter.dataset,
            "recipe": dataset.recipe,
            "parameters": dataset.parameters,
            "rows": len(dataset.trajectories),
        },
        "sources": _records(database, "sources", adapter_id),
        "evaluations": _records(database, "evaluations", adapter_id),
        "training": [_readable(run) for run in _records(database, "training", adapter_id)],
        "verdicts": _records(database, "verdicts", adapter_id),
        "champion": [_readable(reign) for reign in _records(database, "reigns", adapter_id)],
        "taught": _taught(database, adapter.base),
    }


def _pruned(mark: pruned.Pruned | None) -> dict[str, Any] | None:
    return None if mark is None else _readable(asdict(mark))


def _taught(database: Database, base: str) -> list[dict[str, Any]]:
    """How a base was taught, and its student before it; empty where it came from elsewhere."""
    found: list[dict[str, Any]] = []
    while (taught := taught_bases.find(database, base)) and all(each["base"] != base for each in found):
        measured = {
            when: evaluations.success(database, evaluation)
            for when, evaluation in (("before", taught.before), ("after", taught.after))
        }
        rows = len(datasets.load(database, taught.dataset).trajectories)
        found.append(asdict(taught) | {"rows": rows} | measured)
        base = taught.student
    return found


def _ancestors(database: Database, adapter_id: str) -> list[str]:
    """Adapters that produced rows it was trained on, those that produced rows of these, and so on; nearest first."""
    found: list[str] = []
    frontier = [adapter_id]
    while frontier:
        sources = {source["adapter"] for name in frontier for source in _records(database, "sources", name)}
        frontier = sorted(sources - {None, adapter_id, *found})
        found += frontier
    return found


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    """Times as text."""
    return {
        name: f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value for name, value in record.items()
    }


def _records(database: Database, name: str, adapter_id: str) -> list[dict[str, Any]]:
    query = (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
    return database.arrow(query, {"adapter": adapter_id}).to_pylist()
