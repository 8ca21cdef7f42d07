"""`agentloop proof` as a person calls it: the whole of it with the tiny model on the CPU, interrupted once."""

import getpass
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from home import python_path

from agentloop import settings as configuration
from agentloop.campaign.campaign import Campaign
from agentloop.project import CHECKOUT
from agentloop.proof import compiled, workload
from agentloop.proof.proof import read
from agentloop.proof.short_campaign import SOLVED_NOTHING

pytestmark = pytest.mark.slow

SMALL = (
    "collect.concurrency=8",
    "collect.tasks=16",
    "evaluate.tasks=12",
    "training.epochs=1",
    "training.batch_tokens=512",
    "gate.resamples=1000",
    'serving.extra_arguments=["--enforce-eager"]',
)
"""Every part happens; nothing is learnt that could be measured, and vLLM compiles nothing."""


class Command:
    """The command line on a data root with something of the user's in it."""

    def __init__(self, root: Path) -> None:
        self.user, self.output = root / "user", root / "proof"
        self.user.mkdir()
        (self.user / "notes.txt").write_text("mine")

    def start(self, *words: str) -> subprocess.Popen:
        # caches that these tests' own process has set would be the user's for the command, and left as they are
        ours = ("AGENTLOOP_", "PREFECT_", *compiled.TRAINERS, *compiled.VLLMS)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.Popen(
            [sys.executable, "-m", "agentloop", "proof", *words, "--output", str(self.output)],
            env=clean
            | {
                "AGENTLOOP_PATHS__DATA": str(self.user),
                "AGENTLOOP_PATHS__CACHE": str(self.user.parent / "cache"),
                "PYTHONPATH": python_path(CHECKOUT),
                "COLUMNS": "160",
            },
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        try:
            output, _ = process.communicate(timeout=500)
        finally:
            process.kill()
        assert process.returncode == code, output
        return output

    def measure(self, *words: str, **options) -> str:
        return self.run("--profile", "demo", *SMALL, *words, **options)

    def part(self, name: str) -> Path:
        return self.output / "parts" / f"{name}.json"

    def vllm_starts(self) -> bool:
        return any((self.output / "data" / "logs").glob("vllm*"))

    def refused(self, *words: str) -> str:
        [line] = self.measure(*words, code=2).splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """After a proof that was interrupted behind its first part, and run again."""
    command = Command(tmp_path_factory.mktemp("proof"))
    process = command.start("--profile", "demo", *SMALL)
    try:
        deadline = time.monotonic() + 200
        # while vLLM starts: inside an extension that reads a file an interrupt may come out as another error
        while not command.vllm_starts() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and output.splitlines()[-1] == "interrupted; the same command continues", output
    command.trained = command.part("training").read_bytes()
    assert not command.part("restart").exists()
    command.measure()
    return command


@pytest.fixture(scope="module")
def proof(command):
    return read(command.output / "proof.json")


def test_every_part_is_measured_once(command, proof):
    assert command.part("training").read_bytes() == command.trained
    for part in ("training", "serving", "restart", "campaign"):
        assert proof[part] == json.loads(command.part(part).read_text())
    assert proof["sleep"] is None  # no card here
    before = {file: file.stat().st_mtime_ns for file in (command.output / "parts").iterdir()}
    again = command.measure()
    assert {file: file.stat().st_mtime_ns for file in (command.output / "parts").iterdir()} == before
    assert read(command.output / "proof.json") == proof
    assert "tokens per second, whole epoch" in again and "vLLM" in again


def test_the_figures_are_those_of_a_whole_run(proof):
    training = proof["training"]
    assert training["seconds"] >= training["seconds_to_first_step"] + training["seconds_of_saving"]
    assert training["tokens_per_second"] == pytest.approx(training["rows"]["tokens"] / training["seconds"])
    assert training["tokens_per_second"] < training["steady_tokens_per_second"]
    assert training["steps"] == training["rows"]["batches"]
    assert training["from_empty_caches"] and proof["serving"]["from_empty_caches"]
    for rate in proof["serving"]["rate"].values():
        assert rate["in_flight"] == 8 and rate["episodes"] == 16 and rate["requests"] >= 16
        assert rate["tokens_per_second"] == pytest.approx(
            rate["requests"] * rate["mean_output_tokens"] / rate["seconds"]
        )
    marks = proof["restart"]["seconds_from_last_step_to"]
    assert 0 < marks["adapter_written"] <= marks["trainer_ended"] <= marks["adapter_loaded"] <= marks["first_token"]


def test_what_is_served_is_what_was_trained(proof):
    for part in ("serving", "restart"):
        canary = proof[part]["canary"]
        assert canary["passed"] and canary["effect_mean"] > canary["tolerance"] and canary["share"] > 0.9
    assert proof["serving"]["random_weights"] is False


def test_the_campaign_has_a_verdict_of_its_own(proof):
    campaign = proof["campaign"]
    assert campaign["outcome"] in ("promote", "keep", "needs_more_data")
    assert campaign["collected"] == 16 * 4 and 0 < campaign["solved"] < 16 * 4 and campaign["rows_trained_on"] > 0
    assert campaign["difference"]["estimate"] == pytest.approx(
        campaign["adapter_success"]["estimate"] - campaign["base_success"]["estimate"]
    )


def test_nothing_of_the_user_is_touched_or_told(command, proof):
    assert {file.name for file in command.user.iterdir()} <= {"notes.txt", "run.lock"}
    assert not (command.output / "cache").exists()
    text = json.dumps(proof)
    for private in (socket.gethostname(), str(Path.home()), str(CHECKOUT), str(command.output.parent)):
        assert private not in text
    words = {word for value in strings(proof) for word in value.replace("=", " ").split()}
    assert getpass.getuser() not in words and not [word for word in words if word.startswith(("/", "~"))]


def strings(value):
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [value] if isinstance(value, str) else []


def test_compared_with_itself(command):
    output = command.run("--profile", "demo", *SMALL, "--compare", str(command.output / "proof.json"))
    rows = [line for line in output.splitlines() if "whole epoch" in line]
    assert rows and all(line.split()[-1] == "1.00" for line in rows)
    assert "Not the same" not in output and "No ratios" not in output


def test_a_proof_of_other_settings_is_not_mixed_with_it(command):
    line = command.refused("training.rank=8")
    assert line.startswith(
        f"error: --output: {command.output} holds a proof that differs in settings.training.rank (16 there"
    )


def test_stored_trajectories_are_trained_on_where_they_fill_the_epoch(command, tmp_path):
    """The proof's own data root is one in which something was collected."""
    words = [f"paths.data={tmp_path / 'data'}", f"paths.cache={tmp_path / 'cache'}"]
    campaign = Campaign.open(configuration.load([*SMALL, *words], profile="demo"))
    few = workload.load(campaign, command.output / "data", batches=4)
    assert few.source == workload.STORED and all(sum(mask) for _, mask in few.rows)
    assert 4 * 512 <= sum(len(ids) for ids, _ in few.rows) < 4 * 512 + 256
    assert workload.load(campaign, command.output / "data", batches=1000).source == workload.SYNTHETIC


def test_random_weights_are_for_speed_only(tmp_path):
    from agentloop.tiny.architecture import random_checkpoint

    random_checkpoint(tmp_path / "model", seed=3)
    command = Command(tmp_path)
    output = command.measure(str(tmp_path / "model"))
    proof = read(command.output / "proof.json")
    serving, campaign = proof["serving"], proof["campaign"]
    assert serving["random_weights"] and serving["uniform_nats_per_token"] == math.log(proof["model"]["vocabulary"])
    assert 0.5 < serving["answers_nats_per_token"] / serving["uniform_nats_per_token"] < 1.1
    assert serving["canary"]["passed"] and proof["restart"]["canary"]["passed"]
    assert (campaign["outcome"], campaign["solved"], campaign["collected"]) == (SOLVED_NOTHING, 0, 64)
    for text in (output, (command.output / "proof.html").read_text()):
        assert "For speed only: the model has random weights" in text
        assert "solved none of 64 episodes" in text and "agentloop teach" in text
