"""Tasksets of verifiers: what is right scores 1 by the taskset's own rewards through our protocol, and what fails is no score.

Needs `.venv-verifiers` in the checkout (docs/environments.md).
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from agentloop import environments, project
from agentloop.environments import guest, verifiers
from agentloop.environments.environment import Demonstration
from agentloop.errors import SettingError, WorldError
from agentloop.project import CHECKOUT
from agentloop.settings import Settings
from agentloop.tiny.demonstrations import act
from agentloop.tiny.tokenizer import build_tokenizer
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import Stage

HERE = Path(__file__).parent / "tasksets"
VENV = CHECKOUT / ".venv-verifiers"
SUMS, COUNTER = "verifiers:sums", "verifiers:counter,rows=40"

needs_verifiers = pytest.mark.skipif(not VENV.exists(), reason="there is no .venv-verifiers")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A project with the tasksets, and with the checkout's virtual environment."""
    folder = tmp_path_factory.mktemp("project")
    (folder / project.FILE).touch()
    for file in HERE.glob("*.py"):
        shutil.copy(file, folder)
    (folder / VENV.name).symlink_to(VENV)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(project.VARIABLE, str(folder))
        patch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
        yield folder


def played(environment, task, *turns):
    with Stage.open(environment, task) as stage:
        replies = [stage.observe(turn) for turn in turns]
        outcome = stage.outcome()
    return replies, outcome, environment.score(task, None, outcome)


@needs_verifiers
def test_right_answers_reach_the_tasksets_own_full_score():
    environment = environments.get(SUMS)
    tasks = [task for split in ("train", "heldout") for task in environment.stream(split, 0)]
    assert len(tasks) == 100
    demonstrations = [Demonstration(task, "right", tuple(environment.expert(task))) for task in tasks]
    for trajectory in act(demonstrations, environment, build_tokenizer([])):
        assert trajectory.status == "ended"
        assert trajectory.outcome == {
            "reward": 1.0,
            "rewards": {"right": 1.0, "short": 1.0},
            "metrics": {"turns": 1.0},
        }
        scores = environment.score(trajectory.task, None, trajectory.outcome)
        assert scores == {"success": 1.0, "right": 1.0, "short": 1.0}


@needs_verifiers
def test_other_answers_do_not():
    environment = environments.get(SUMS)
    task = next(task for task in environment.stream("train", 0) if len(task.answer) == 3)
    assert played(environment, task, "a long story")[2]["success"] == 0
    assert played(environment, task, "999")[2] == {"success": pytest.approx(0.2), "right": 0.0, "short": 1.0}
    assert played(environment, task, f"I say {task.answer}")[2]["success"] == pytest.approx(0.8)
    assert played(environment, task)[2]["right"] == 0  # an episode that came to no end
    halved = environments.get(f"{SUMS},full=2")
    (same,) = halved.tasks("train", 1, seed=0)
    assert played(halved, same, same.answer)[2]["success"] == 0.5


@needs_verifiers
def test_tools_share_the_tasks_state_and_are_judged_by_it():
    environment = environments.get(COUNTER)
    assert environment.expert(environment.tasks("train", 1, seed=0)[0]) is None
    rng_tasks = [task for split in ("train", "heldout") for task in environment.stream(split, 0)]
    assert len(rng_tasks) == 40
    demonstrations = []
    for task in rng_tasks:
        times = task.payload["index"] + 1
        calls = [f"```tool_code\nbutton_press({n})\n```" for n in (1, times - 1) if n]
        demonstrations.append(Demonstration(task, "right", (*calls, "Done.")))
    for trajectory in act(demonstrations, environment, build_tokenizer([])):
        assert trajectory.status == "ended" and trajectory.outcome["reward"] == 1.0
    wrong = [Demonstration(task, "noise", ("```tool_code\nbutton_press(41)\n```", "Done.")) for task in rng_tasks[:5]]
    assert all(each.outcome["reward"] == 0.0 for each in act(wrong, environment, build_tokenizer([])))


@needs_verifiers
def test_a_mistake_is_told_and_a_stop_ends_the_episode():
    environment = environments.get(COUNTER)
    (task,) = environment.tasks("train", 1, seed=0)
    with Stage.open(environment, task) as stage:
        about = stage.describe()
        assert [(tool.name, tool.signature, tool.description) for tool in about.tools] == [
            ("button_press", "(times: int = 1) -> str", "Press the button so many times.")
        ]
        assert about.speaks and not about.answers and "A turn without a call ends the task" in about.instructions
        assert stage.call("button_press", ["often"], {}).text == "error: times must be of type int"
        refused = stage.call("button_press", [0], {})
        assert refused.complaint and refused.text.endswith("times must be at least 1")
        assert stage.call("button_press", [], {}).text.endswith("button was pressed 1 times")
        last = stage.call("button_press", [50], {})
        assert last.done and not last.complaint and last.text.endswith("pressed 51 times")


@needs_verifiers
def test_episodes_share_nothing():
    environment = environments.get(COUNTER)
    (task,) = environment.tasks("train", 1, seed=0)
    with Stage.open(environment, task) as first, Stage.open(environment, task) as second:
        first.call("button_press", [3], {})
        assert second.call("button_press", [], {}).text.endswith("pressed 1 times")


@needs_verifiers
def test_a_task_is_the_same_in_every_process(folder):
    here = [asdict(task) for task in environments.get(SUMS).tasks("train", 5, seed=3)]
    code = (
        "import json, sys; from dataclasses import asdict; from agentloop import environments;"
        f"json.dump([asdict(task) for task in environments.get({SUMS!r}).tasks('train', 5, seed=3)], sys.stdout)"
    )
    variables = {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=True, encoding="utf-8"
    )
    assert json.loads(there.stdout) == here
    other = environments.get(f"{SUMS},asked=What is")
    (task,) = environments.get(SUMS).tasks("train", 1, seed=0)
    with pytest.raises(guest.GuestFault, match="the taskset has another task number"):
        other.open(task)


async def _ended(worlds, task, times: int) -> str:
    async with worlds.open(task, session="s") as world:
        await world.describe()
        with pytest.raises(WorldError) as told:
            await world.call("button_press", [times], {})
    return str(told.value)


@needs_verifiers
def test_a_dead_or_hanging_session_fails_its_attempt_and_no_other(tmp_path, folder):
    settings = Settings(paths={"data": tmp_path / "data"}, collect={"tool_seconds": 6})
    (task,) = environments.get(COUNTER).tasks("train", 1, seed=0)

    async def play() -> None:
        with Worlds(settings, [COUNTER]) as worlds:
            worlds.start()
            assert await _ended(worlds, task, 666) == "tool button_press: GuestFault: its process ended"
            hung = asyncio.create_task(_ended(worlds, task, 667))
            async with worlds.open(task, session="s") as world:
                await world.describe()
                assert (await world.call("button_press", [2], {})).text.endswith("pressed 2 times")
                assert (await world.outcome())["rewards"] == {"as_often_as_asked": float(task.payload["index"] == 1)}
            assert await hung == "tool button_press: no answer within collect.tool_seconds = 6"

    asyncio.run(play())


@needs_verifiers
def test_a_session_that_hangs_is_killed_once_nobody_waits_for_it():
    environment = environments.get(COUNTER)
    (task,) = environment.tasks("train", 1, seed=0)
    connection, _ = environment.guest.open(index=task.payload["index"], key=task.payload["key"])
    before = _forks(environment.guest)
    connection._socket.sendall(b'{"do": "call", "with": {"tool": "button_press", "arguments": {"times": 667}}}\n')
    connection.close()
    assert len(before) == 1
    deadline = time.monotonic() + 60
    while _forks(environment.guest) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _forks(environment.guest)


def _forks(started) -> list[str]:
    """Process ids of the sessions of a guest."""
    parents = {}
    for process in (Path(f"/proc/{pid}") for pid in os.listdir("/proc") if pid.isdecimal()):
        try:
            text = (process / "stat").read_text(encoding="utf-8")
        except OSError:
            continue
        parents.setdefault(text.rpartition(")")[2].split()[1], []).append(process.name)
    (process,) = parents[str(started._child.pid)]
    return parents.get(process, [])


@needs_verifiers
def test_a_guest_that_was_killed_is_started_again():
    environment = environments.get(f"{SUMS},count=7")
    (task,) = environment.tasks("train", 1, seed=0)
    environment.guest._child.stop(grace_seconds=0)
    assert played(environment, task, task.answer)[2]["success"] == 1.0


@needs_verifiers
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("container", "its task 0 needs a sandbox: a container"),
        ("image", "its task 0 needs a sandbox: a container"),
        ("inside", "its task 0 needs a sandbox: its reward files looks into it"),
        ("setup", "it needs a sandbox: a hook of its tasks uses runtime.run"),
        ("judge", r"its task 0 is scored by a judge \(task.judge\), which needs a network"),
        ("elsewhere", r"its toolset far is a server elsewhere \(http://127.0.0.1:9/mcp\), which needs a network"),
        ("unrewarded", "its task 0 has no reward"),
        ("rewrites", "its task 0 rewrites what is said"),
        ("promptless", "its task 0 has no prompt"),
        ("few_shot", "its task 0 begins in the middle of a conversation"),
        ("empty", "it has no tasks"),
        ("fails", "OSError: its rows are not there"),
    ],
)
def test_what_cannot_be_played_is_refused_by_name(kind, fault):
    name = f"verifiers:unplayable,kind={kind}"
    with pytest.raises(SettingError, match=f"^environment: {name}: {fault}") as told:
        environments.get(name)
    assert "\n" not in str(told.value)


@needs_verifiers
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("no-such-taskset", "taskset 'no-such-taskset' not found"),
        ("sums,count=many", "count: Input should be a valid integer"),
        ("sums,size=3", "size: Extra inputs are not permitted"),
        ("sums,rows=0", "rows must be a whole number of at least 1"),
        ("sums,full=0", "full must be a number above 0"),
        ("sums,five", "'five' is no option; write it as split=train"),
        ("", "name a taskset"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, fault):
    with pytest.raises(SettingError, match=fault) as told:
        environments.get(f"verifiers:{name}")
    assert str(told.value).startswith(f"environment: verifiers:{name}") and "\n" not in str(told.value)


@needs_verifiers
def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(verifiers, "VERSION", "0.3.9")
    with pytest.raises(SettingError, match=r"verifiers is 0\.4\.0 there, not 0\.3\.9"):
        environments.get(f"{SUMS},count=3")


def test_a_missing_interpreter_is_told_with_what_makes_it(tmp_path, monkeypatch):
    (tmp_path / project.FILE).touch()
    monkeypatch.setenv(project.VARIABLE, str(tmp_path))
    with pytest.raises(SettingError) as told:
        environments.get("verifiers:owner/alphabet@1.2")
    assert str(told.value) == (
        f"environment: verifiers:owner/alphabet@1.2: there is no {tmp_path}/.venv-verifiers/bin/python, which this needs: "
        f"python3 -m venv {tmp_path}/.venv-verifiers && {tmp_path}/.venv-verifiers/bin/python -m pip install "
        "verifiers==0.4.0 alphabet==1.2"
    )
