"""A removal that is killed at any of its steps is finished by the same command, and what is told meanwhile is true."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from agentloop.campaign.prune import prune
from agentloop.housekeeping.rules import ShardChoice
from agentloop.store import datasets, pruned
from agentloop.store.database import Database

KILLED = """
import os, signal, sys
from agentloop import settings as configuration
from agentloop.campaign.prune import prune
from agentloop.housekeeping.rules import ShardChoice

left = int(sys.argv[1])
STEPS = ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree")

def step(event, arguments):
    global left
    if event in STEPS:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

settings = configuration.load(sys.argv[2:], profile="demo")
sys.addaudithook(step)
prune(settings, shards=ShardChoice(campaign="nights"))
"""


def state(campaign) -> tuple:
    """Files, and what the database says of them, without what is shared by readers and when it was pruned."""
    files = {
        name: size
        for name, size in campaign.files().items()
        if not name.startswith((".", "agentloop.duckdb", "run.lock"))
    }
    with Database.open_snapshot(campaign.settings.paths.database) as database:
        shards = database.execute("SELECT id, path, status, trajectories FROM shards ORDER BY id")
        places = database.execute(
            "SELECT t.id, h.id, t.position FROM trajectories t JOIN shards h ON h.number = t.shard ORDER BY 1"
        )
        gone = {name: (each.bytes, each.digest) for name, each in pruned.adapters(database).items()}
    return files, shards, places, gone


@pytest.fixture(params=[0, 1, 2, 5, 9, 14, 20, 26, 33])
def steps(request) -> int:
    return request.param


def test_the_same_command_goes_on(campaign, steps):
    for _ in range(4):
        adapter = campaign.pass_one()
    campaign.age(6)
    retention = campaign.settings.retention.model_copy(update={"adapter_iterations": 1})
    settings = campaign.settings = campaign.settings.model_copy(update={"retention": retention})
    spare = campaign.data.with_name("spare")
    shutil.copytree(campaign.data, spare)

    paths = settings.paths
    words = [f"paths.data={paths.data}", f"paths.cache={paths.cache}", "campaign=nights", "retention.adapter_days=5"]
    words += ["retention.log_days=5", "retention.adapter_iterations=1"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(steps), *words], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    with Database.open_snapshot(paths.database) as database:
        gone = pruned.adapters(database)
        for name in (path.name for path in paths.adapters.iterdir() if path.name.startswith("adapter_")):
            assert (paths.adapters / name / "adapter_model.safetensors").is_file()  # whole, or not there
        for (name,) in database.execute("SELECT id FROM adapters"):
            assert name in gone or (paths.adapters / name).is_dir()  # what is gone is said to be
        for (path,) in database.execute("SELECT path FROM shards WHERE status = 'ingested'"):
            assert database.resolve(path).is_file()
        assert len(list(datasets.rows(database, adapter.dataset))) == 4

    choice = ShardChoice(campaign="nights")
    prune(settings, shards=choice)
    finished = state(campaign)
    shutil.rmtree(campaign.data)
    os.rename(spare, campaign.data)
    prune(settings, shards=choice)
    assert state(campaign) == finished
