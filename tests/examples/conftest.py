"""A project of an example's own, with the command line on it; ended with all that it started."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from home import Home, free_port, python_path

from agentloop.project import CHECKOUT

SMALL = (
    "collect.tasks=24",
    "collect.samples=4",
    "training.epochs=1",
    "evaluate.tasks=16",
    "evaluate.samples=2",
    "gate.max_tasks=16",
    "gate.resamples=1000",
)


@dataclass(frozen=True)
class Project(Home):
    """A folder as a user has it, beside the checkout and not in it; its data root is its own `data`."""

    @property
    def project(self) -> Path:
        return self.root.parent

    @property
    def environment(self) -> dict[str, str]:
        ours = {"PYTHONPATH": python_path(CHECKOUT), "COLUMNS": "200"}
        return super().environment | ours

    def small_loop(self) -> None:
        """Collect, train and judge as the demo does, with 24 tasks."""
        said = self.run("run", "--profile", "demo", *SMALL)
        assert "Report: " in said.splitlines()[-1]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One for all examples, so that vLLM is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def project(tmp_path, cache):
    """`project(name)` is a copy of examples/name; without a name it is what `agentloop init` makes."""
    (tmp_path / "models").symlink_to(CHECKOUT / "models")
    made: list[Project] = []

    def make(name: str | None = None) -> Project:
        folder = tmp_path / "examples" / (name or "project")
        home = Project(folder / "data", free_port(), {"AGENTLOOP_PATHS__CACHE": str(cache)})
        if name:
            shutil.copytree(CHECKOUT / "examples" / name, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
        else:
            folder.parent.mkdir()
            Project(folder.parent / "data", home.port).run("init", str(folder))
        made.append(home)
        return home

    yield make
    for home in made:
        home.run("down")
