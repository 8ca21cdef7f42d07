"""The ledger after a death: however a step ended, it says so, and nobody is said to be at work who is not."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from agentloop import environments, scratch
from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.errors import StoreError
from agentloop.store.runs import FlowRun

WORKING = """
import os, sys, time
from pathlib import Path
from agentloop.files import atomic
from agentloop.store.runs import FlowRun
from test_interrupted_steps import at
campaign = at(Path(sys.argv[1]))
def work():
    with atomic(campaign.settings.paths.checkpoints / "half.safetensors") as temporary:
        temporary.write_text("half")
        print("at work", flush=True)
        time.sleep(600)
with campaign.at_work(FlowRun("run-1")):
    campaign.step("train", 1, [], work)
"""


def at(root):
    settings = configuration.load([f"paths.data={root}", f"paths.cache={root / 'cache'}"], profile="demo")
    return Campaign(settings, environments.get("arithmetic"), root, "base_1")


def steps(campaign):
    with campaign.database() as database:
        return database.execute("SELECT name, status, error, tries FROM steps ORDER BY started")


def status(campaign):
    paths = campaign.settings.paths
    command = [sys.executable, "-m", "agentloop", "status", f"paths.data={paths.data}", f"paths.cache={paths.cache}"]
    return " ".join(subprocess.check_output(command, text=True).split())


@pytest.fixture
def campaign(tmp_path):
    return at(tmp_path)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreError("the disk is full"), "the disk is full"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "SystemExit: 3"),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_step_that_ends_in_any_way_is_noted(campaign, error, told):
    def work():
        raise error

    with campaign.at_work(), pytest.raises(type(error)):
        campaign.step("train", 1, [], work)
    assert steps(campaign) == [("train", "failed", told, 1)]
    with campaign.at_work():
        assert campaign.step("train", 1, [], lambda: {"adapter": "adapter_1"}) == {"adapter": "adapter_1"}
    assert steps(campaign) == [("train", "done", None, 2)]


def test_what_a_killed_run_left_is_noted_and_removed(campaign):
    here = os.path.dirname(__file__)
    working = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(campaign.settings.paths.data)],
        env={**os.environ, "PYTHONPATH": f"{here}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert working.stdout.readline() == "at work\n"
    shown = status(campaign)
    assert "train of iteration 1 since" in shown and "interrupted" not in shown
    working.send_signal(signal.SIGKILL)
    working.communicate()
    left = list(campaign.settings.paths.checkpoints.iterdir())
    assert [file.suffix for file in left] == [".tmp"]
    shown = status(campaign)
    assert "train of iteration 1: interrupted" in shown and "since" not in shown
    with campaign.at_work():
        assert steps(campaign) == [("train", "failed", "interrupted", 1)]
        assert not list(campaign.settings.paths.checkpoints.iterdir())


def test_temporary_folders_of_killed_processes_go_when_a_run_begins(campaign, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # sockets have to fit into its name
        monkeypatch.setattr(tempfile, "tempdir", short)
        with scratch.directory() as used:
            left = used.with_name(f"{scratch.PREFIX}killed")
            (left / "sockets").mkdir(parents=True)
            with campaign.at_work():
                assert used.is_dir() and not left.exists()


def test_a_phase_that_fails_is_noted_with_its_time_and_the_run_with_its_error(campaign):
    with pytest.raises(StoreError, match="the end"):
        with campaign.at_work(FlowRun("run-1", "self-improve", "http://127.0.0.1:4200/runs/flow-run/run-1")):
            with campaign.phase("collect", 2):
                campaign.note("vllm", "start", 0.0, reason="killed")
                raise StoreError("the end")
    campaign.note("vllm", "stop", 1.0)  # nobody is at work: nobody's time
    with campaign.phase("collect", 3):
        pass
    with campaign.database() as database:
        assert database.execute("SELECT iteration, failed FROM gpu_phases ORDER BY iteration") == [
            (2, True),
            (3, False),
        ]
        assert database.execute("SELECT iteration, action, reason FROM process_times") == [(2, "start", "killed")]
        assert database.execute("SELECT flow, flow_run, error FROM runs") == [("self-improve", "run-1", "the end")]
