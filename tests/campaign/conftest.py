"""The command line on a campaign's data root, in this process."""

import json
import os
import sys
from unittest import mock

import pytest

from agentloop import environments
from agentloop.campaign import heldout
from agentloop.cli import app as cli

ENVIRONMENT = """
from pathlib import Path

from agentloop.environments import QuestionFile


class Few(QuestionFile):
    name = {name!r}
    path = Path(__file__).with_name("questions.jsonl")

    def tools(self, task):
        return {{}}
"""


@pytest.fixture
def run_command(capsys):
    def run(campaign, *words: str) -> tuple[int, str]:
        """(exit code, everything on the screen)"""
        paths = campaign.settings.paths
        roots = {"AGENTLOOP_PATHS__DATA": str(paths.data), "AGENTLOOP_PATHS__CACHE": str(paths.cache)}
        command = ["agentloop", words[0], "--profile", "demo", *words[1:]]
        with mock.patch.dict(os.environ, roots), mock.patch.object(sys, "argv", command):
            code, last = cli.run()
        output = capsys.readouterr()
        return code, f"{output.err}{output.out}{last or ''}"

    return run


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The file of an environment with 25 held-out tasks; another of the kind is known as `fewer`."""
    monkeypatch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
    rows = [{"question": f"{number}?", "answer": number, "split": "heldout"} for number in range(25)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("fewer", "few"):
        (tmp_path / f"{name}.py").write_text(ENVIRONMENT.format(name=name))
    environments.get(str(tmp_path / "fewer.py"))
    heldout._continued.cache_clear()
    return tmp_path / "few.py"
