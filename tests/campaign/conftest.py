"""The command line on a campaign's data root."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def run_command():
    def run(campaign, *words: str) -> tuple[int, str]:
        """(exit code, standard output and error)"""
        paths = campaign.settings.paths
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AGENTLOOP_")}
        done = subprocess.run(
            [sys.executable, "-m", "agentloop", words[0], "--profile", "demo", *words[1:]],
            env=clean | {"AGENTLOOP_PATHS__DATA": str(paths.data), "AGENTLOOP_PATHS__CACHE": str(paths.cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    return run
