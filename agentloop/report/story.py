"""The lineage of an adapter for people: as facts, one line each, and as a tree for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from agentloop import sizes
from agentloop.report.comparison import percent

BASE = "base model"


def facts(story: Mapping[str, Any], actors: Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, value) of all that made an adapter and became of it, `story` being what store.lineage tells.

    `actors`: what adapters are called; any other is called by its id.
    """
    dataset = story["dataset"]
    told = [("Made as", _as(use)) for use in story["uses"]]
    told += [
        ("Base", story["base"]),
        *(("Base taught", _taught(each)) for each in story["taught"]),
        ("Started from", story["parent"]["adapter"] if story.get("parent") else "fresh weights"),
        ("Dataset", f"{dataset['id']}: {dataset['rows']:,} rows by recipe {dataset['recipe']}"),
        ("Parameters", flat_text(dataset["parameters"])),
    ]
    funnels = dict.fromkeys(funnel_text(use["funnel"]) for use in story["uses"] if use["funnel"])
    told += [("Selection", funnel) for funnel in funnels]
    for source in story["sources"]:
        actor = actors.get(source["adapter"], source["adapter"]) or _origin(source["base"])
        rows = f"{source['rows']:,} rows of {source['tasks']:,} tasks"
        told.append(("Rows from", f"{actor}: {rows} ({source['policy']})"))
    told += [("Training", flat_text(story["settings"])), ("Seed, code", f"{story['seed']}, version {story['code']}")]
    told += [("Trained", _run(run)) for run in story["training"]]
    for measured in story["evaluations"]:
        share = f"{percent(measured['success'])} of {measured['tasks']} tasks × {measured['samples']} samples"
        suite = "" if measured["suite"] in (None, "heldout") else f" on the guard {measured['suite']}"
        told.append(("Evaluation", f"{share}{suite}, as {_as(measured)} ({measured['id']})"))
    told += [("Verdict", each["reason"]) for each in story["verdicts"]]
    told += [("Champion", f"since {each['moved']}, iteration {each['iteration']}") for each in story["champion"]]
    if gone := story["pruned"]:
        again = f"`agentloop reproduce {story['adapter']}` makes them again"
        return [*told, ("Files", f"pruned on {gone['pruned'][:10]} ({sizes.said(gone['bytes'])}); {again}")]
    return [*told, ("Files", story["path"])]


def tree(story: Mapping[str, Any]) -> Tree:
    """An adapter's facts, and below them those of the adapters behind it: whom it continued, who produced its rows."""
    root = Tree(Text(story["adapter"], style="bold"))
    _tell(root, story)
    parent = story["parent"]
    if parent is not None:
        root.add(Text.assemble(("It continued", "dim"))).add(tree(parent))
    behind = {name: each for name, each in story["ancestors"].items() if parent is None or name != parent["adapter"]}
    if behind:
        branch = root.add(Text("Behind its rows", style="dim"))
        for name, each in behind.items():
            _tell(branch.add(Text(name, style="bold")), each)
    return root


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def flat_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in flat(values))


def funnel_text(funnel: Sequence[tuple[str, int]]) -> str:
    return " → ".join(f"{left:,} {rule}" for rule, left in funnel)


def _tell(branch: Tree, story: Mapping[str, Any]) -> None:
    for name, value in facts(story, {}):
        branch.add(Text.assemble((f"{name:<13}", "dim"), value))


def _origin(base: str | None) -> str:
    """Who acted without an adapter: the base model, or where demonstrations came from."""
    return BASE if base is None or base.startswith("base_") else base.partition("_")[0]


def _taught(taught: Mapping[str, Any]) -> str:
    measured = [percent(taught[when]) for when in ("before", "after") if taught[when] is not None]
    gain = f", {' → '.join(measured)} on held-out tasks" if measured else ""
    source = taught["source"]
    place = f" ({source['place']})" if "place" in source else ""
    return (
        f"{taught['name']} is {taught['student']} taught on {taught['rows']:,} demonstrations "
        f"from {source['kind']}{place}{gain} ({taught['dataset']}, {taught['adapter']}, campaign {taught['campaign']})"
    )


def _as(use: Mapping[str, Any]) -> str:
    return f"{use['role']} of iteration {use['iteration']} of campaign {use['campaign']}" if use["role"] else "–"


def _run(run: Mapping[str, Any]) -> str:
    if run["finished"] is None:
        return f"since {run['started']}, not finished"
    again = f", continued from a checkpoint {run['resumed']} times" if run["resumed"] else ""
    return f"{run['finished']}, in {run['seconds']:.1f} s, {run['tokens']:,} tokens{again}"
