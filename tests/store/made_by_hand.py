"""Trajectories made by hand, and processes that use the database at the same time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agentloop.curation.scoring import score
from agentloop.records import Attempt, Sampling, Task, Trajectory, Turn
from agentloop.store.database import Database
from agentloop.store.ingest import ingest
from agentloop.store.shards import write_shard


def sum_task(number: int, split: str = "train") -> Task:
    return Task("arithmetic", "sum", f"{number} + 1", str(number + 1), split, {"seed": number})


def episode(
    task: Task,
    sample: int = 0,
    *,
    answer: str | None = None,
    policy: str = "policy_base",
    calls: Sequence[str] = ("{}",),
    error: str | None = None,
    attempts: Sequence[Attempt] = (),
    padding: int = 0,
    seed: int = 7,
) -> Trajectory:
    """An episode with one tool call for each of `calls` (their arguments), then `answer` (right by default)."""
    answer = task.answer if answer is None else answer or None
    turns, ids, mask, logprobs = [], [], [], []

    def span(role: str, text: str, **details: str | None) -> None:
        start = len(ids)
        ids.extend(range(start, start + 3 + len(text)))
        mask.extend([role == "model"] * (3 + len(text)))
        logprobs.extend([-0.5 if role == "model" else 0.0] * (3 + len(text)))
        turns.append(Turn(role, text, start, len(ids), **details))

    span("user", task.question + " " * padding)
    for arguments in calls:
        span("model", f"calculator({arguments})", tool="calculator", arguments=arguments)
        span("tool", error or "2", tool="calculator", error=error)
    span("model", f"answer: {answer}")
    return Trajectory(
        policy,
        task,
        sample,
        Sampling(),
        seed,
        "answered" if answer else "turn_limit",
        answer,
        tuple(ids),
        tuple(mask),
        tuple(logprobs),
        tuple(turns),
        0.25,
        tuple(attempts),
    )


@pytest.fixture(scope="session")
def new_database(tmp_path_factory) -> Path:
    """The file of an empty database: to copy it takes less time than to make one."""
    path = tmp_path_factory.mktemp("new") / "agentloop.duckdb"
    Database.open(path).close()
    return path


@pytest.fixture
def database(tmp_path: Path, new_database: Path):
    shutil.copytree(new_database.parent, tmp_path / "data")
    with Database.open(tmp_path / "data" / "agentloop.duckdb") as database:
        yield database


@pytest.fixture
def collected(database, tmp_path: Path):
    """Ten tasks with a right and a wrong episode each."""
    episodes = [episode(sum_task(n), sample, answer="" if sample else None) for n in range(10) for sample in range(2)]
    path = tmp_path / "data" / "shards" / "a.parquet"
    write_shard(path, episodes, purpose="collect", campaign="main", iteration=1)
    ingest(database, [path])
    score(database, {"arithmetic": lambda task, answer: float(answer == task.answer)})
    return episodes


@pytest.fixture
def start_python(tmp_path: Path):
    """Start a Python process that runs some code with `path` (the database's) defined; ended when the test ends."""
    running: list[subprocess.Popen] = []

    def start(code: str) -> subprocess.Popen:
        header = (
            f"import os, sys, time\nfrom pathlib import Path\nfrom agentloop.store.database import Database\n"
            f"path = Path({str(tmp_path / 'data' / 'agentloop.duckdb')!r})\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", header + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


StartPython = Callable[[str], subprocess.Popen]
