"""The environments that come with agentloop, side by side: does the own answer score 1, how long does a task take.

    python benchmarks/environment_table.py [NAME …] [--json …] [--page docs/environments.md]

Each environment's first tasks are drawn and their own answers verified, in this process. `near` is the share of training tasks
whose question nearly is that of a held-out one (agentloop.curation.contamination): a run leaves these out. Without names: all,
generators of reasoning-gym included where it is installed. Replaces the table in the page, between its two marks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from agentloop import __version__, environments
from agentloop.curation import contamination
from agentloop.environments import reasoning_gym
from agentloop.records import Task

BUILT_IN = ("arithmetic", "database")
TASKS, SECONDS = 60, 8.0
"""Tasks of a split that are drawn, or as many as come within the time."""
BEGIN, END = "<!-- table: benchmarks/environment_table.py -->", "<!-- end of table -->"
COLUMNS = ("environment", "own answer", "drawn", "near", "ms to make", "ms to score")


def generators() -> list[str]:
    """Names of all generators that are not left out."""
    from reasoning_gym.factory import DATASETS

    return [f"{reasoning_gym.PREFIX}{name}" for name in sorted(DATASETS) if name not in reasoning_gym.LEFT_OUT]


def drawn(name: str, split: Any) -> list[Task]:
    tasks: list[Task] = []
    deadline = time.monotonic() + SECONDS
    for task in islice(environments.get(name).stream(split, 0), TASKS):
        tasks.append(task)
        if time.monotonic() > deadline:
            break
    return tasks


def measured(name: str) -> dict[str, Any]:
    environment = environments.get(name)
    started = time.perf_counter()
    train, heldout = drawn(name, "train"), drawn(name, "heldout")
    made = time.perf_counter() - started
    tasks = train + heldout
    started = time.perf_counter()
    values = [environment.verify(task, task.answer) for task in tasks]
    scored = time.perf_counter() - started
    return {
        "environment": name,
        "own_answer": min(values),
        "tasks": len(tasks),
        "near": near(train, heldout),
        "ms_to_make": 1000 * made / len(tasks),
        "ms_to_score": 1000 * scored / len(tasks),
    }


def near(train: Sequence[Task], heldout: Sequence[Task]) -> float:
    """Share of the training tasks that nearly are a held-out one."""
    found = contamination.between(
        {task.id: task.question for task in train},
        {task.id: task.question for task in heldout},
        {task.id: task.family for task in heldout},
    )
    return len(found) / max(1, len(train))


def milliseconds(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def into(page: Path, begin: str, end: str, text: str) -> None:
    """Put the text between the two marks of a page, in place of what is there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|{'---:|' * (len(COLUMNS) - 1)}"]
    for row in rows:
        figures = (
            f"{row['own_answer']:g}",
            f"{row['tasks']}",
            f"{row['near']:.0%}",
            milliseconds(row["ms_to_make"]),
            milliseconds(row["ms_to_score"]),
        )
        lines.append(f"| `{row['environment']}` | {' | '.join(figures)} |")
    return "\n".join(lines)


def main(names: Sequence[str], result: Path, page: Path | None) -> None:
    rows = []
    for name in names or (*BUILT_IN, *generators()):
        rows.append(measured(name))
        print(json.dumps(rows[-1]), flush=True)
    found = {
        "command": "python benchmarks/environment_table.py",
        "agentloop": __version__,
        "reasoning_gym": metadata.version("reasoning-gym"),
        "environments": rows,
    }
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        into(page, BEGIN, END, table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/environments.json"))
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    main(asked.names, asked.json, asked.page)
