"""One run at a time: the next one says whom it waits for, and goes on however that one ends."""

import signal
import subprocess
import sys
import threading

import pytest

from agentloop.campaign.lock import owned, owner
from agentloop.errors import StoreError

HOLDER = """
import sys, time
from pathlib import Path
from agentloop.campaign.lock import owned
with owned(Path(sys.argv[1]), campaign="first", flow_run="run-1"):
    print("owned", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that owns the data root."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_second_run_waits_until_the_first_has_ended(tmp_path, holder, end):
    first = holder
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
    assert not entered.is_set()
    first.send_signal(end)
    waiting.join(30)
    assert entered.is_set() and told == [line]
    assert owner(tmp_path) is None


def test_who_does_not_wait_is_told(tmp_path, holder):
    with pytest.raises(StoreError, match="owned by another run, campaign first") as error, owned(tmp_path, wait=False):
        pass
    assert "\n" not in str(error.value)


def test_who_waits_can_be_interrupted(tmp_path, holder):
    waiting = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout.readline().startswith("waiting for campaign first")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) != 0
    assert owner(tmp_path).pid == holder.pid
