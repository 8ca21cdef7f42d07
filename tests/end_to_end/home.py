"""A data root with the command line on it: real runs with the tiny model, vLLM, Prefect, DuckDB and the trainer."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from agentloop import settings as configuration
from agentloop.project import CHECKOUT
from agentloop.store.database import Database
from agentloop_flows import key

SOURCES = ("", "kernels", "flows", "vllm_plugin")
"""Folders of a checkout whose packages are imported."""


def python_path(checkout: Path) -> str:
    """PYTHONPATH for a process that is to run this checkout, whatever is installed."""
    return os.pathsep.join(str(checkout / folder) for folder in SOURCES)


SMALL = (
    "iterations=2",
    "collect.tasks=32",
    "collect.samples=4",
    "collect.shard_episodes=32",
    "evaluate.tasks=24",
    "evaluate.samples=2",
    "training.epochs=2",
    "training.checkpoint_steps=2",
    "gate.control=false",
    "gate.max_tasks=24",
    "gate.resamples=1000",
)
"""A campaign of a minute: every step happens, nothing is learnt that could be measured."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Home:
    """One data root, and the command line on it."""

    root: Path
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)
    """More of the environment, as a user may have set it."""

    @property
    def project(self) -> Path:
        """A copy of the project for this data root: `up` writes into the project's folder, and the developer's stays alone."""
        folder = self.root.with_name(f"{self.root.name}-project")
        if not folder.exists():
            for part in ("agentloop", "flows", "kernels/agentloop_kernels", "vllm_plugin", "models/tiny"):
                shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("prefect.yaml", "prefect.toml"):
                shutil.copy(CHECKOUT / file, folder)
            (folder / "agentloop.toml").touch()
        return folder

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTLOOP_", "PREFECT_"))}
        return clean | {
            "AGENTLOOP_PATHS__DATA": str(self.root),
            "AGENTLOOP_PATHS__CACHE": str(self.root / "cache"),
            "AGENTLOOP_PREFECT_PORT": str(self.port),
            "PYTHONPATH": python_path(self.project),
            "COLUMNS": "160",
            **self.variables,
        }

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "agentloop", *words],
            env=self.environment,
            cwd=self.project,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *words: str, code: int = 0, seconds: float = 400) -> str:
        """Standard output and error of a command that must end with this exit code."""
        process = self.start(*words)
        try:
            output, _ = process.communicate(timeout=seconds)
        finally:
            process.kill()
        assert process.returncode == code, output
        return output

    def improve(self, *words: str, **options) -> str:
        return self.run("run", "--profile", "demo", *SMALL, *words, **options)

    def rows(self, query: str) -> list[tuple]:
        with Database.open(self.root / "agentloop.duckdb", read_only=True) as database:
            return database.execute(query)

    def settings(self, *words: str) -> configuration.Settings:
        return configuration.load(
            [
                *SMALL,
                f"paths.data={self.root}",
                f"paths.cache={self.root / 'cache'}",
                f"prefect_port={self.port}",
                *words,
            ],
            profile="demo",
        )

    def flow_runs(self) -> list[dict]:
        oldest_first = {"limit": 200, "sort": "START_TIME_ASC"}
        with self.prefect() as api:
            return api.post("/flow_runs/filter", json=oldest_first).json()

    @contextmanager
    def prefect(self) -> Iterator[httpx.Client]:
        """Prefect's API, with the key of this data root."""
        name, _, password = key.credentials(self.settings()).partition(":")
        url = f"http://127.0.0.1:{self.port}/api"
        with httpx.Client(base_url=url, auth=(name, password), trust_env=False, timeout=30) as api:
            token = api.get("/csrf-token", params={"client": "tests"}).json()["token"]
            api.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"})
            yield api
