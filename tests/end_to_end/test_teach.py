"""`agentloop teach`, for real: a base that hardly solves a family is taught it, measured, and improved upon; killed, it goes on."""

import json
import os
import re
import signal
import time

import pytest
from home import Home, free_port

from agentloop.model_directory.fingerprint import base_fingerprint

# tests/teaching plays, learns and refuses with the same model in less time
pytestmark = pytest.mark.slow
FAMILY = "precedence"
TEACH = (
    "evaluate.tasks=64",
    "evaluate.samples=2",
    "gate.max_tasks=64",
    "gate.resamples=1000",
    "teach.tasks=64",
    "teach.shard_episodes=16",
    "teach.learning_rate=2e-3",
    "training.checkpoint_steps=2",
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(home, what the command said)"""
    home = Home(tmp_path_factory.mktemp("taught"), free_port())
    said = home.run("teach", "-p", "demo", "--family", FAMILY, *TEACH)
    yield home, said
    home.run("down")


def directory_of(home, said):
    (name,) = re.findall(r"to use it, set model=(\S+)", said)
    return home.project / "models" / name


def test_the_family_is_solved_afterwards(taught):
    home, said = taught
    record = json.loads((directory_of(home, said) / "agentloop_taught.json").read_text())
    before, after = record["measured"]["families"][FAMILY]
    assert before < 0.4 and after > before + 0.3
    assert record["demonstrations"] == {FAMILY: {"accepted": 64, "of": 64}}
    assert record["source"] == {"kind": "experts"} and record["student"]["model"] == "tiny"
    assert str(home.project) not in json.dumps(record) and str(home.root) not in json.dumps(record)


def test_demonstrations_are_ordinary_trajectories_with_a_lineage(taught):
    home, said = taught
    assert home.rows("SELECT purpose, count(*) FROM collected WHERE purpose <> 'evaluate' GROUP BY 1") == [
        ("demonstrate", 64)
    ]
    assert home.rows("SELECT DISTINCT family, solved FROM v_behaviour WHERE purpose = 'demonstrate'") == [
        (FAMILY, True)
    ]
    ((adapter,),) = home.rows("SELECT adapter FROM taught_bases")
    assert "experts: 64 rows of 64 tasks" in " ".join(home.run("lineage", adapter).split())
    (report,) = (home.root / "reports").glob("teaching-*.html")
    assert "Demonstrations from experts" in report.read_text()


def test_it_was_measured_as_a_campaign_with_it_will_be(taught):
    """The next campaign runs no episode for its first measurement."""
    home, said = taught
    logs = {file.name for file in (home.root / "logs").glob("vllm-*")}
    model = directory_of(home, said).name
    output = home.run("eval", "-p", "demo", f"model={model}", "campaign=next", *TEACH)
    record = json.loads((directory_of(home, said) / "agentloop_taught.json").read_text())
    assert f"base model: {record['measured']['after']['estimate']:.1%}" in output
    assert {file.name for file in (home.root / "logs").glob("vllm-*")} == logs


def test_an_adapter_on_it_shows_the_teaching(taught):
    home, said = taught
    name = directory_of(home, said).name
    small = ("collect.tasks=16", "collect.samples=2", "iterations=1", "gate.control=false", "training.epochs=1")
    home.run("run", "-p", "demo", f"model={name}", "campaign=next", *TEACH, *small)
    ((adapter,),) = home.rows("SELECT adapter FROM candidates WHERE campaign = 'next'")
    told = " ".join(home.run("lineage", adapter).split())
    assert f"{name} is base_" in told and "taught on 64 demonstrations from experts" in told


def test_the_same_command_again_says_what_is_there(taught):
    home, said = taught
    steps = home.rows("SELECT key, tries FROM steps ORDER BY key")
    files = {file: file.stat().st_mtime_ns for file in directory_of(home, said).iterdir()}
    again = home.run("teach", "-p", "demo", "--family", FAMILY, *TEACH)
    assert again.splitlines()[-1] == said.splitlines()[-1]
    assert home.rows("SELECT key, tries FROM steps ORDER BY key") == steps
    assert {file: file.stat().st_mtime_ns for file in directory_of(home, said).iterdir()} == files


def test_a_name_that_is_taken(taught):
    home, _ = taught
    output = home.run("teach", "-p", "demo", "--name", "tiny", *TEACH, code=2)
    assert output.splitlines()[-1].startswith("error: ") and "choose another --name" in output.splitlines()[-1]


def test_killed_again_and_again_it_ends_as_undisturbed(taught, tmp_path):
    home, said = taught
    killed = Home(tmp_path / "killed", free_port())
    words = ("teach", "-p", "demo", "--family", FAMILY, *TEACH)
    moments = {
        "a shard is written": lambda: any((killed.root / "shards").glob("shard_*.parquet")),
        "the trainer has saved": lambda: any((killed.root / "checkpoints").glob("adapter_*.safetensors")),
        "the base is being written": lambda: any((killed.root / "checkpoints").glob("merge-*.json")),
        "vLLM has started": lambda: any((killed.root / "logs").glob("vllm-*.log")),
    }
    try:
        for moment, reached in moments.items():
            process = killed.start(*words)
            deadline = time.monotonic() + 200
            while not reached():
                assert process.poll() is None and time.monotonic() < deadline, moment
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        ended = killed.run(*words)
        assert ended.splitlines()[-1].rpartition("/")[2] == said.splitlines()[-1].rpartition("/")[2]
        first, second = directory_of(home, said), directory_of(killed, ended)
        assert base_fingerprint(first, tmp_path / "cache") == base_fingerprint(second, tmp_path / "cache")
        trajectories = "SELECT id FROM trajectories t JOIN collected c ON c.trajectory = t.id WHERE purpose = 'demonstrate' ORDER BY 1"
        assert killed.rows(trajectories) == home.rows(trajectories)
        assert not [file for file in second.parent.iterdir() if file.name.startswith(".taught")]
    finally:
        killed.run("down")
