"""SIGKILL of vLLM, of the trainer and of the run itself: the same command ends in the state of an undisturbed run."""

import random
import time

import psutil
import pytest
from home import SMALL, Home, free_port

STATE = (
    "SELECT id FROM trajectories ORDER BY id",
    "SELECT id FROM datasets ORDER BY id",
    "SELECT dataset, trajectory FROM dataset_rows ORDER BY ALL",
    "SELECT id FROM adapters ORDER BY id",
    "SELECT id FROM evaluations ORDER BY id",
    "SELECT adapter, decision FROM verdicts ORDER BY ALL",
)


def descendant(process, word, seconds=240):
    """The process under `process` whose command line has `word` as an argument, once there is one; the supervisor is not it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if word in command and "agentloop.child" not in command:
                return child
        time.sleep(0.1)
    raise AssertionError(f"no process with {word}")


def family(process):
    """Everything that the run started and that has to end with it; the Prefect server stays."""
    members = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "flows.prefect_server" not in child.cmdline():
                members.append(child)
        except psutil.Error:
            continue
    return members


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("killed"), free_port())
    yield home
    home.run("down")


def start(home):
    return home.start("run", "--profile", "demo", *SMALL)


def shards(home):
    return sorted((home.root / "shards").glob("*.parquet"))


def test_killed_anywhere_the_same_command_ends_in_the_same_state(home, other):
    draw = random.Random()

    # the run itself, at a random moment of the first collection
    run = start(other)
    descendant(run, "agentloop.serving.standby")
    time.sleep(draw.uniform(0, 25))
    orphans = family(run)
    assert orphans
    run.kill()
    run.communicate()
    _, alive = psutil.wait_procs(orphans, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    # vLLM, while it serves: the run starts another one and goes on
    run = start(other)
    descendant(run, "agentloop.serving.standby").kill()
    # the trainer: the run ends with one line and a code, the same command continues
    trainer = descendant(run, "agentloop.training.worker")
    time.sleep(draw.uniform(0, 4))
    trainer.kill()
    output, _ = run.communicate(timeout=300)
    if run.returncode:
        assert "error: the trainer ended with exit code" in output, output

    other.improve()
    for query in STATE:
        assert other.rows(query) == home.rows(query), query
    assert not list(other.root.rglob("*.tmp"))
