"""The command line on data roots of which everything is known, in this process."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from made_by_hand import collected, database, new_database, start_python  # noqa: F401
from recorded_campaign import recorded  # noqa: F401

from agentloop.cli import app as cli
from agentloop.cli.common import console

Run = Callable[..., tuple[int, str, str]]
"""Words of a command to its exit code, standard output and standard error."""


@pytest.fixture
def data(tmp_path) -> Path:
    """The data root that `agentloop` works on."""
    return tmp_path / "data"


@pytest.fixture
def agentloop(data, capsys, monkeypatch) -> Run:
    """Run the command line on the data root."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AGENTLOOP_")]:
        del os.environ[name]
    monkeypatch.setattr(console, "width", 160)
    os.environ["AGENTLOOP_PATHS__DATA"] = str(data)
    os.environ["AGENTLOOP_PATHS__CACHE"] = str(data.parent / "cache")

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["agentloop", *map(str, words)])
        code, last = cli.run()
        captured = capsys.readouterr()
        return code, captured.out, captured.err + (f"{last}\n" if last else "")

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def on_recorded(recorded, data) -> Path:  # noqa: F811
    """The recorded campaign, three iterations and a control, as the data root."""
    shutil.copytree(recorded.root, data)
    return data
