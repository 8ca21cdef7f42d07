"""Ctrl-C: exit code 130, and the promise that the same command continues only where that is true."""

import os
import signal
import subprocess
import sys
import time

import pytest
from home import python_path
from typed import begin

from agentloop.project import CHECKOUT

SLOW = """
import os, time
from pathlib import Path
Path(os.environ["TOLD"]).touch()
time.sleep(600)
"""
"""An environment whose file takes for ever: whoever needs it is at work then, and nothing has been started yet."""


def interrupted(data, wait_for, *words) -> tuple[int, str]:
    """Exit code and last line of a command that is interrupted as soon as `wait_for` is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentloop", *words],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AGENTLOOP_")},
            "AGENTLOOP_PATHS__DATA": str(data),
            "AGENTLOOP_PATHS__CACHE": str(data.parent / "cache"),
            "PYTHONPATH": python_path(CHECKOUT),
            "TOLD": str(wait_for),
        },
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not wait_for.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "continues"),
    [
        (["run", "--profile", "demo"], True),
        (["run", "--profile", "demo", "--dry-run"], True),
        (["eval", "--profile", "demo"], True),
        (["teach", "--profile", "demo"], True),
        (["proof", "tiny", "--profile", "demo"], True),
        (["rescore"], False),
        (["check", "--profile", "demo"], False),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_only_what_goes_on_says_so(database, data, tmp_path, words, continues):
    begin(database, "main")
    database.close()
    (tmp_path / "slow.py").write_text(SLOW)
    said = interrupted(data, tmp_path / "told", *words, f"environment={tmp_path / 'slow.py'}")
    assert said == (130, "interrupted; the same command continues" if continues else "interrupted")


def test_a_query_is_just_interrupted(database, data, tmp_path):
    database.close()
    endless = tmp_path / "endless.csv"
    query = f"COPY (SELECT range FROM range(1000000000000)) TO '{endless}'"
    assert interrupted(data, endless, "sql", query) == (130, "interrupted")
    endless.unlink(missing_ok=True)
