"""Environments that nobody here has written, played by their own experts: the score that comes out, milliseconds of a core.

    python benchmarks/played_environments.py [NAME …] [--json …] [--page docs/environments.md]

Each environment's first tasks of a split are drawn, and the expert's turns are put to the session of each through the same code
as a model's, in this process. `drawn`: of both splits, at most TASKS each. Replaces the table in the page, between its marks.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from environment_table import into, milliseconds, near

from agentloop import __version__, environments
from agentloop.rollout.episode import read
from agentloop.rollout.grammar import ToolCall
from agentloop.worlds.stage import Stage

NAMES = (
    "textworld:treasure_hunter,level=5",
    "textworld:treasure_hunter,level=5,theme=basic",
    "textworld:treasure_hunter,level=15",
    "textworld:coin_collector,level=5",
    "textworld:cooking,recipe=2,take=1,cook,cut,open,go=6",
    "textworld:simple,rewards=dense,goal=detailed",
    "textworld:custom,quest_length=4",
    "bfcl:multi_turn_base",
    "bfcl:multi_turn_miss_param",
)
PACKAGES = {"textworld": "textworld", "bfcl": "bfcl-eval"}
TASKS = 10
BEGIN, END = "<!-- table: benchmarks/played_environments.py -->", "<!-- end of played -->"
COLUMNS = ("environment", "version", "expert", "drawn", "near", "turns", "ms to make", "ms to open", "ms a turn")


def of_a_core() -> float:
    """Return the seconds of a core that this process and those that it started have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def played(environment: environments.Environment, task: Any) -> tuple[float, float, list[float]]:
    """Return what the expert scores at the task, the seconds to open its session, and those of each turn."""
    started = time.process_time()
    stage = Stage.open(environment, task)
    opened = time.process_time() - started
    about, turns = stage.describe(), []
    for turn in environment.expert(task) or ():
        started = time.process_time()
        parsed = read(turn, about)
        if isinstance(parsed, ToolCall):
            stage.call(parsed.name, parsed.args, parsed.kwargs)
        else:
            stage.observe(turn)
        turns.append(time.process_time() - started)
    return environment.score(task, None, stage.outcome())["success"], opened, turns


def measured(name: str) -> dict[str, Any]:
    environment = environments.get(name)
    started = of_a_core()
    train, heldout = (environment.tasks(split, TASKS, seed=0) for split in ("train", "heldout"))
    made = of_a_core() - started
    episodes = [played(environment, task) for task in train + heldout]
    package = PACKAGES[name.partition(":")[0]]
    return {
        "environment": name,
        "package": package,
        "version": metadata.version(package),
        "expert": min(success for success, _, _ in episodes),
        "tasks": len(episodes),
        "near": near(train, heldout),
        "turns": fmean(len(turns) for _, _, turns in episodes),
        "ms_to_make": 1000 * made / len(episodes),
        "ms_to_open": 1000 * fmean(opened for _, opened, _ in episodes),
        "ms_a_turn": 1000 * fmean(seconds for _, _, turns in episodes for seconds in turns),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * (len(COLUMNS) - 2)}"]
    for row in rows:
        figures = (
            f"{row['package']} {row['version']}",
            f"{row['expert']:g}",
            f"{row['tasks']}",
            f"{row['near']:.0%}",
            f"{row['turns']:.1f}",
            milliseconds(row["ms_to_make"]),
            f"{row['ms_to_open']:.0f}",
            f"{row['ms_a_turn']:.2g}",
        )
        lines.append(f"| `{row['environment']}` | {' | '.join(figures)} |")
    return "\n".join(lines)


def main(names: Sequence[str], result: Path, page: Path | None) -> None:
    rows = []
    for name in names or NAMES:
        rows.append(measured(name))
        print(json.dumps(rows[-1]), flush=True)
    found = {"command": "python benchmarks/played_environments.py", "agentloop": __version__, "environments": rows}
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        into(page, BEGIN, END, table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/played_environments.json"))
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    main(asked.names, asked.json, asked.page)
