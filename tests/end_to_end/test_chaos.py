"""One tool call in five goes wrong and vLLM is killed in the middle: the run finishes, and no failure counts as a zero."""

import time
from pathlib import Path

import psutil
import pytest
from home import SMALL, Home, free_port

from agentloop import environments
from agentloop.campaign import collect
from agentloop.campaign.campaign import Campaign

FILE = str(Path(__file__).with_name("chaos.py"))
SETTINGS = (
    "collect.shard_episodes=128",
    "iterations=1",
    f"environment={FILE}",
    "collect.tool_seconds=1",
    "collect.attempts=6",
    "collect.max_failed=0.2",
)


@pytest.mark.slow
def test_a_run_outlives_its_tools_and_its_server(tmp_path):
    home = Home(tmp_path / "home", free_port())
    try:
        run = home.start("run", "--profile", "demo", *SMALL, *SETTINGS)
        while len(processes(run, "agentloop.worlds.host")) < 8:  # so many episodes have called a tool; most are to come
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.02)
        for server in processes(run, "agentloop_vllm.standby"):
            server.kill()
        output, _ = run.communicate(timeout=500)
        assert run.returncode == 0, output
        examine(home)
    finally:
        home.run("down")


def processes(run, word: str) -> list[psutil.Process]:
    """Descendants of the run with this word in their command line; the supervisors that name it too are left out."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if word in command and "agentloop.child" not in command:
            found.append(process)
    return found


def examine(home):
    campaign = Campaign.open(home.settings(*SETTINGS))
    planned = {name for shard in collect.plan_collection(campaign, 1, None) for name in shard.trajectories}
    finished = dict(
        home.rows(
            "SELECT trajectory, task FROM collected JOIN trajectories ON id = trajectory WHERE purpose = 'collect'"
        )
    )
    lost = {
        name for (name,) in home.rows("SELECT DISTINCT trajectory FROM v_failures WHERE lost AND purpose = 'collect'")
    }
    assert finished.keys() | lost == planned and not finished.keys() & lost

    told = [error for (error,) in home.rows("SELECT error FROM v_failures")]
    for cause in (
        "RuntimeError: the service",
        "no answer within collect.tool_seconds = 1",
        "with exit code 7",
        "vLLM was killed",
    ):
        assert any(cause in error for error in told), cause

    verify = environments.get(FILE).verify
    tasks = {task.id: task for split in ("train", "heldout") for task in campaign.environment.tasks(split, 64, 0)}
    scores = home.rows(
        "SELECT t.id, t.task, t.answer, s.success FROM v_success s JOIN trajectories t ON t.id = s.trajectory"
    )
    assert all(success == verify(tasks[task], answer) for _, task, answer, success in scores)
    assert not lost & {name for name, *_ in scores}
    [(evaluated, left_out)] = home.rows("SELECT min(tasks), 24 - min(tasks) FROM evaluations")
    failed = home.rows("SELECT count(DISTINCT task) FROM v_failures WHERE lost AND purpose = 'evaluate'")[0][0]
    assert evaluated and (left_out > 0) == (failed > 0)
