"""One run at a time: the next one says whom it waits for, and goes on however that one ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from agentloop.campaign import ownership
from agentloop.campaign.ownership import owned, owner
from agentloop.errors import StoreError

HOLDER = """
import os, sys, time
from pathlib import Path
from agentloop.campaign.ownership import owned
with owned(Path(sys.argv[1]), campaign="first", flow_run="run-1"):
    print(os.environ["TMPDIR"], flush=True)
    time.sleep(600)
"""


def hold(data):
    command = [sys.executable, "-c", HOLDER, str(data)]
    return subprocess.Popen(command, env={**os.environ, "TMPDIR": str(data)}, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    """Another process that owns the data root, and its scratch."""
    process = hold(tmp_path)
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_second_run_waits_until_the_first_has_ended(tmp_path, holder, end):
    first, scratch = holder
    told, entered = [], threading.Event()

    def second():
        with owned(tmp_path, campaign="second", tell=told.append):
            entered.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    while not told:
        assert waiting.is_alive()
        waiting.join(0.05)
    (line,) = told
    assert "campaign first" in line and str(first.pid) in line and str(tmp_path) in line
    assert owner(tmp_path).campaign == "first" and owner(tmp_path).flow_run == "run-1"
    assert not entered.is_set() and scratch.is_dir()
    first.send_signal(end)
    waiting.join(30)
    assert entered.is_set() and told == [line]
    assert not scratch.exists()
    assert owner(tmp_path) is None


def test_who_does_not_wait_is_told(tmp_path, holder):
    with pytest.raises(StoreError, match="owned by another run, campaign first") as error, owned(tmp_path, wait=False):
        pass
    assert "\n" not in str(error.value)


def test_who_waits_can_be_interrupted(tmp_path, holder):
    waiting = hold(tmp_path)
    assert waiting.stdout.readline().startswith("waiting for campaign first")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) != 0
    assert owner(tmp_path).pid == holder[0].pid


def test_the_owners_children_write_into_its_scratch(tmp_path):
    with owned(tmp_path, campaign="only"):
        told = json.loads((tmp_path / ownership.LOCK_FILE).read_text())
        made = subprocess.check_output([sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"], text=True)
        assert Path(made.strip()).parent == Path(told["scratch"])
        assert told["pid"] == os.getpid() and psutil.pid_exists(told["pid"])
    assert not Path(told["scratch"]).exists() and Path(tempfile.gettempdir()).is_dir()
