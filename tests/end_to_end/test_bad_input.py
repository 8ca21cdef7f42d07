"""Mistakes that people make: one line that names the setting or the file, a non-zero exit, no traceback, nothing lost."""

import os
import socket
import subprocess

import pytest

from agentloop.campaign.campaign import Campaign
from agentloop.campaign.prepare import policies
from agentloop.errors import AdapterError


def told(output):
    """The one line that a person is told, the last on the screen."""
    assert "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line == output.splitlines()[-1], output
    return line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=/nowhere/gemma"], "error: model: '/nowhere/gemma' is not a model directory"),
        (["environment=chess"], "error: environment: "),
        (["training.rnk=8"], "error: training.rnk: unknown setting"),
        (["serving.python=/nowhere/python"], "error: serving.python: "),
    ],
)
def test_settings(home, words, message):
    assert told(home.improve(*words, code=2)).startswith(message)


def test_a_prefect_port_in_use(home, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        output = home.run("up", f"prefect_port={port}", f"paths.data={tmp_path}", code=2)
    line = told(output)
    assert line.startswith(f"error: prefect_port: port {port} is in use by another program (")
    assert line.endswith(f", process {os.getpid()}); set another one")


def test_a_vllm_port_in_use(home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        output = home.improve("seed=5", "campaign=port", f"serving.port={port}", code=2)
    assert told(output).startswith(f"error: serving.port: {port} ")


def test_a_campaign_with_other_settings(home):
    assert "seed" in told(home.improve("seed=9", code=2))


def test_a_truncated_shard_is_set_aside_and_collected_anew(home):
    trajectories = home.rows("SELECT count(*) FROM trajectories")
    damaged = sorted((home.root / "shards").glob("*.parquet"))[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    home.improve()
    assert damaged.exists() and len(damaged.read_bytes()) > len(whole) // 2
    assert home.rows("SELECT count(*) FROM trajectories") == trajectories


def test_an_adapter_of_another_base(home, tmp_path):
    from agentloop.tiny.architecture import random_checkpoint

    random_checkpoint(tmp_path / "model", seed=7)
    adapter = home.rows("SELECT id FROM adapters LIMIT 1")[0][0]
    settings = home.settings(f"model={tmp_path / 'model'}")
    with policies(Campaign.open(settings)) as server, pytest.raises(AdapterError, match="base") as error:
        server.serve(adapter)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(home):
    shards = home.root / "shards"
    words = ("campaign=full", "seed=3", "iterations=1")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(shards)], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        output = home.improve(*words, code=2)
        assert list(shards.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(shards)], check=True)
    line = told(output)
    assert line.startswith(f"error: {shards}: ") and "are needed there" in line and "`agentloop prune" in line


def test_sql_that_is_wrong(home):
    output = home.run("sql", "SELECT * FROM nothing", code=2)
    assert "nothing" in told(output)
