"""The command line on a campaign's data root, in this process."""

import os
import sys
from unittest import mock

import pytest

from agentloop.cli import app as cli


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
