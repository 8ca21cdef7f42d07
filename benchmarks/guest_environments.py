"""Environments in an interpreter of their own, played right and wrong: scores, milliseconds to open a session and a turn.

    python benchmarks/guest_environments.py [--json …] [--page docs/environments.md]

The tasksets and servers are those of tests/environments, in a project of their own with the virtual environments
`.venv-verifiers` and `.venv-openenv` of this checkout. Times are of a clock, all processes included. Replaces the table in the
page, between its marks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from environment_table import into, milliseconds

from agentloop import __version__, environments, project
from agentloop.environments import openenv, verifiers
from agentloop.records import Task
from agentloop.rollout.episode import read
from agentloop.rollout.grammar import ToolCall
from agentloop.worlds.stage import Stage

TESTS = project.CHECKOUT / "tests" / "environments" if project.CHECKOUT else Path("tests/environments")
TASKS = 25
BEGIN, END = "<!-- table: benchmarks/guest_environments.py -->", "<!-- end of guests -->"
COLUMNS = ("environment", "version", "right", "wrong", "tasks", "s to start", "ms to open", "ms a turn", "ms to score")


def call(tool: str, *numbers: int) -> str:
    return f"```tool_code\n{tool}({', '.join(map(str, numbers))})\n```"


def counted(task: Task) -> list[str]:
    first = int(task.question.split()[2])
    return [call("step", number) for number in range(first, first + 4)]


def pressed(task: Task) -> list[str]:
    return [*[call("button_press", 1)] * (task.payload["index"] + 1), "Done."]


PLAYED: dict[str, tuple[str, Callable[[Task], list[str]], list[str]]] = {
    "verifiers:sums,count=100": (f"verifiers {verifiers.VERSION}", lambda task: [task.answer], ["I do not know."]),
    "verifiers:counter,rows=40": (f"verifiers {verifiers.VERSION}", pressed, [call("button_press", 41), "Done."]),
    "openenv:counting:app": (f"openenv-core {openenv.VERSION}", counted, [call("step", 1)]),
    "openenv:drawer:app": (
        f"openenv-core {openenv.VERSION}",
        lambda task: [call("look", drawer) for drawer in range(1, 6)],
        [call("look", 9)],
    ),
}
"""By an environment's name: its package, what is right at a task, and what is not."""


def played(
    environment: environments.Environment, task: Task, turns: Sequence[str]
) -> tuple[float, float, list[float], float]:
    """Return success, the seconds to open the session, those of each turn, and those to score the episode."""
    started = time.perf_counter()
    with Stage.open(environment, task) as stage:
        opened = time.perf_counter() - started
        about, seconds, done = stage.describe(), [], False
        for turn in turns:
            if done:
                break
            started = time.perf_counter()
            parsed = read(turn, about)
            if isinstance(parsed, ToolCall):
                done = stage.call(parsed.name, parsed.args, parsed.kwargs).done
            else:
                stage.observe(turn)
            seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        success = environment.score(task, None, stage.outcome())["success"]
        return success, opened, seconds, time.perf_counter() - started


def measured(name: str) -> dict[str, Any]:
    package, right, wrong = PLAYED[name]
    started = time.perf_counter()
    environment = environments.get(name)
    start = time.perf_counter() - started
    tasks = environment.tasks("train", TASKS, seed=0)
    episodes = [played(environment, task, right(task)) for task in tasks]
    return {
        "environment": name,
        "version": package,
        "right": min(success for success, *_ in episodes),
        "wrong": max(played(environment, task, wrong)[0] for task in tasks),
        "tasks": len(tasks),
        "s_to_start": start,
        "ms_to_open": 1000 * median(opened for _, opened, _, _ in episodes),
        "ms_a_turn": 1000 * median(fmean(seconds) for _, _, seconds, _ in episodes),
        "ms_to_score": 1000 * median(seconds for *_, seconds in episodes),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * (len(COLUMNS) - 2)}"]
    for row in rows:
        figures = (
            row["version"],
            f"{row['right']:g}",
            f"{row['wrong']:g}",
            f"{row['tasks']}",
            f"{row['s_to_start']:.0f}",
            *(milliseconds(row[column]) for column in ("ms_to_open", "ms_a_turn", "ms_to_score")),
        )
        lines.append(f"| `{row['environment']}` | {' | '.join(figures)} |")
    return "\n".join(lines)


def main(result: Path, page: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / project.FILE).touch()
        for file in (*TESTS.glob("tasksets/*.py"), *TESTS.glob("openenv_servers/*.py")):
            shutil.copy(file, folder)
        for name in (".venv-verifiers", ".venv-openenv"):
            (Path(folder) / name).symlink_to(TESTS.parents[1] / name)
        os.environ[project.VARIABLE] = folder
        rows = []
        for name in PLAYED:
            rows.append(measured(name))
            print(json.dumps(rows[-1]), flush=True)
    found = {"command": "python benchmarks/guest_environments.py", "agentloop": __version__, "environments": rows}
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        into(page, BEGIN, END, table(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/guest_environments.json"))
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    main(asked.json, asked.page)
