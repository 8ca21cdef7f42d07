"""OpenEnv's environments over its client: right actions reach the full score, and a dead or hanging server is no score.

Needs `.venv-openenv` in the checkout (docs/environments.md). The servers are written with openenv-core's own server side.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest

from agentloop import environments, project
from agentloop.curation import contamination
from agentloop.environments import openenv
from agentloop.environments.environment import Demonstration
from agentloop.environments.guest import GuestFault
from agentloop.errors import SettingError, WorldError
from agentloop.project import CHECKOUT
from agentloop.settings import Settings
from agentloop.tiny.demonstrations import act
from agentloop.tiny.tokenizer import build_tokenizer
from agentloop.worlds.pool import Worlds
from agentloop.worlds.stage import Stage

HERE = Path(__file__).parent / "openenv_servers"
VENV = CHECKOUT / ".venv-openenv"
COUNTING, DRAWERS = "openenv:counting:app", "openenv:drawer:app"

needs_openenv = pytest.mark.skipif(not VENV.exists(), reason="there is no .venv-openenv")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """A project with the servers, and with the checkout's virtual environment."""
    folder = tmp_path_factory.mktemp("project")
    (folder / project.FILE).touch()
    for file in HERE.glob("*.py"):
        shutil.copy(file, folder)
    (folder / VENV.name).symlink_to(VENV)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(project.VARIABLE, str(folder))
        patch.setattr(environments, "_ENVIRONMENTS", dict(environments._ENVIRONMENTS))
        yield folder


def started(folder, app: str):
    """A server with a port of its own, in its own process, and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [VENV / "bin" / "python", "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(list(map(str, command)), cwd=folder)
    deadline = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    server.kill()
    raise AssertionError("the server did not start")


@pytest.fixture(scope="module")
def narrow(folder):
    """The URL of a server that takes one session at a time."""
    server, url = started(folder, "counting:narrow")
    yield url
    server.kill()
    server.wait()


def first_of(task) -> int:
    return int(task.question.split()[2])


def counted(task, *numbers):
    return Demonstration(task, "right", tuple(f"```tool_code\nstep({number})\n```" for number in numbers))


def gold(task):
    return counted(task, *range(first_of(task), first_of(task) + 4))


@needs_openenv
def test_right_actions_reach_the_environments_own_full_score():
    environment = environments.get(COUNTING)
    tasks = [task for split in ("train", "heldout") for task in environment.tasks(split, 40, seed=0)]
    for trajectory in act(map(gold, tasks), environment, build_tokenizer([])):
        assert trajectory.status == "ended"
        assert trajectory.outcome == {"reward": 1.0, "steps": 4, "done": True}
        assert environment.score(trajectory.task, None, trajectory.outcome) == {"success": 1.0, "finished": 1.0}
        assert [turn.reward for turn in trajectory.turns if turn.role == "model"] == [0.25] * 4


@needs_openenv
def test_other_actions_do_not():
    environment = environments.get(COUNTING)
    tasks = environment.tasks("train", 10, seed=1)
    wrong = [counted(task, first_of(task), first_of(task) + 2) for task in tasks]
    for trajectory in act(wrong, environment, build_tokenizer([])):
        assert trajectory.status == "ended" and trajectory.outcome["steps"] == 2
        assert environment.score(trajectory.task, None, trajectory.outcome)["success"] == 0.25
    halved = environments.get(f"{COUNTING},full=2")
    (trajectory,) = act([gold(halved.tasks("train", 1, seed=1)[0])], halved, build_tokenizer([]))
    assert halved.score(trajectory.task, None, trajectory.outcome) == {"success": 0.5, "finished": 1.0}


@needs_openenv
def test_the_action_is_the_tools_parameters_and_a_mistake_is_told():
    environment = environments.get(COUNTING)
    (task,) = environment.tasks("train", 1, seed=0)
    with Stage.open(environment, task) as stage:
        about = stage.describe()
        assert [(tool.name, tool.signature, tool.description) for tool in about.tools] == [
            ("step", "(number: int, on: str | None = None) -> str", "Say a number.\nnumber: the next one")
        ]
        assert not about.speaks and not about.answers and about.instructions.startswith("Counting: Count on, number by")
        for arguments, complaint in [
            (["eleven"], "error: number must be of type int"),
            ([-1], "error: number: -1 is less than the minimum of 0"),
            ([5, "noon"], "error: the action is invalid"),  # which only the server knows
        ]:
            reply = stage.call("step", arguments, {})
            assert reply.complaint and reply.text == complaint
        assert stage.call("step", [first_of(task)], {"on": "2026-01-31"}).reward == 0.25
        assert stage.outcome() == {"reward": 0.25, "steps": 1, "done": False}


@needs_openenv
def test_a_servers_own_tools_are_the_models():
    environment = environments.get(DRAWERS)
    tasks = environment.tasks("heldout", 10, seed=0)
    calls = tuple(f"```tool_code\nlook({drawer})\n```" for drawer in range(1, 6))
    trajectories = act([Demonstration(task, "right", calls) for task in tasks], environment, build_tokenizer([]))
    assert all(each.status == "ended" and each.outcome["reward"] == 1.0 for each in trajectories)
    assert len({each.outcome["steps"] for each in trajectories}) > 1
    with Stage.open(environment, tasks[0]) as stage:
        assert stage.call("look", [9], {}).text.endswith("there are 5 drawers")
        assert environment.score(tasks[0], None, stage.outcome()) == {"success": 0.0, "finished": 0.0}


@needs_openenv
def test_a_seed_is_the_same_episode_in_every_process():
    environment = environments.get(f"{COUNTING},seeds=20")
    tasks = [task for split in ("train", "heldout") for task in islice(environment.stream(split, 5), 20)]
    assert sorted(task.payload["seed"] for task in tasks) == list(range(20))
    code = (
        "import json, sys; from dataclasses import asdict; from agentloop import environments;"
        f"json.dump([asdict(task) for task in environments.get({COUNTING!r}).tasks('train', 5, seed=3)], sys.stdout)"
    )
    variables = {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, check=True, encoding="utf-8"
    )
    assert json.loads(there.stdout) == [asdict(task) for task in environments.get(COUNTING).tasks("train", 5, seed=3)]


@needs_openenv
def test_episodes_that_begin_alike_are_tasks_of_their_own():
    environment = environments.get(DRAWERS)
    train, heldout = (environment.tasks(split, 60, seed=0) for split in ("train", "heldout"))
    assert not contamination.between(
        {task.id: task.question for task in train},
        {task.id: task.question for task in heldout},
        {task.id: task.family for task in heldout},
    )


@needs_openenv
def test_another_beginning_is_refused_where_it_is_opened():
    environment = environments.get(COUNTING)
    (task,) = environment.tasks("train", 1, seed=0)
    with pytest.raises(SettingError, match="the server begins another episode of seed"):
        environment.open(replace(task, question="Count from 3 on.\n\nThis is episode 1."))


@needs_openenv
def test_what_reset_is_given_besides_the_seed():
    environment = environments.get(f"{COUNTING},reset.by=22")
    assert {first_of(task) for task in environment.tasks("train", 20, seed=0)} == {20, 21}


async def failed(worlds, task, number: int) -> str:
    async with worlds.open(task, session="s") as world:
        await world.describe()
        with pytest.raises(WorldError) as told:
            await world.call("step", [number], {})
    return str(told.value)


@needs_openenv
def test_a_dead_or_hanging_server_fails_its_attempt_and_no_other(tmp_path):
    settings = Settings(paths={"data": tmp_path / "data"}, collect={"tool_seconds": 6})
    (task,) = environments.get(COUNTING).tasks("train", 1, seed=0)

    async def play() -> None:
        with Worlds(settings, [COUNTING]) as worlds:
            worlds.start()
            assert await failed(worlds, task, 666) == "tool step: GuestFault: its process ended"
            assert "the disk of the game is full (code: EXECUTION_ERROR)" in await failed(worlds, task, 668)
            hung = asyncio.create_task(failed(worlds, task, 667))
            async with worlds.open(task, session="s") as world:
                await world.describe()
                assert (await world.call("step", [first_of(task)], {})).reward == 0.25
                assert await world.outcome() == {"reward": 0.25, "steps": 1, "done": False}
            assert await hung == "tool step: no answer within collect.tool_seconds = 6"

    asyncio.run(play())


@needs_openenv
def test_a_server_behind_a_url_takes_one_episode_after_the_other(narrow):
    environment = environments.get(f"openenv:{narrow},seeds=50")
    tasks = environment.tasks("train", 5, seed=0)
    for trajectory in act(map(gold, tasks), environment, build_tokenizer([])):
        assert trajectory.outcome["reward"] == 1.0
    with Stage.open(environment, tasks[0]) as first:
        assert first.call("step", [first_of(tasks[0])], {}).reward == 0.25
        with pytest.raises(
            GuestFault, match="takes no further session; let it have more .* or lower collect.concurrency"
        ):
            environment.open(tasks[1])


@needs_openenv
def test_a_server_behind_a_url_that_dies_is_a_fault(folder):
    server, url = started(folder, "counting:app")
    environment = environments.get(f"openenv:{url}")
    first, second = environment.tasks("train", 2, seed=0)
    connection, _ = environment.guest.open(seed=first.payload["seed"])
    server.kill()
    server.wait()
    with pytest.raises(GuestFault, match="ConnectionClosed"):
        connection.ask("call", tool="step", arguments={"number": 1})
    with pytest.raises(GuestFault, match=f"no OpenEnv server answers at {url}"):
        environment.open(second)
    environment._openings.clear()
    with pytest.raises(SettingError, match=f"^environment: openenv:{url}: ConnectionError: Failed to connect"):
        environment.tasks("train", 1, seed=7)


@needs_openenv
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("http://127.0.0.1:9", r"no OpenEnv server answers at http://127\.0\.0\.1:9: "),
        ("no_such.server:app", r"no_such\.server:app: No module named 'no_such'"),
        ("counting:nothing", "counting:nothing: module 'counting' has no attribute 'nothing'"),
        ("careless:app", "its episodes of the same seed do not begin alike"),
        ("counting", "name a server's URL or its application: "),
        ("counting:app,games=3", "there is no option games; there are seeds, full and reset.NAME"),
        ("counting:app,reset.seed=3", "there is no option reset.seed"),
        ("counting:app,seeds=0", "seeds must be a whole number of at least 1"),
        ("counting:app,full=-1", "full must be a number above 0"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name, fault):
    with pytest.raises(SettingError, match=fault) as told:
        environments.get(f"openenv:{name}")
    assert str(told.value).startswith(f"environment: openenv:{name}: ") and "\n" not in str(told.value)


@needs_openenv
def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(openenv, "VERSION", "0.2.0")
    with pytest.raises(SettingError, match=r"openenv-core is 0\.3\.0 there, not 0\.2\.0"):
        environments.get(f"{COUNTING},seeds=7")


@needs_openenv
def test_a_file_of_ones_own_gives_it_experts(folder):
    (folder / "tasks.py").write_text(
        "from agentloop.environments import openenv\n"
        f"class Counting(openenv.of_name({COUNTING!r})):\n"
        '    name = "counting"\n'
        "    def expert(self, task):\n"
        "        first = int(task.question.split()[2])\n"
        '        return [f"```tool_code\\nstep({number})\\n```" for number in range(first, first + 4)]\n',
        encoding="utf-8",
    )
    environment = environments.get("tasks.py")
    (task,) = environment.tasks("train", 1, seed=0)
    assert task.environment == "counting"
    (trajectory,) = act(
        [Demonstration(task, "right", tuple(environment.expert(task)))], environment, build_tokenizer([])
    )
    assert environment.score(task, None, trajectory.outcome)["success"] == 1.0


def test_a_missing_interpreter_is_told_with_what_makes_it(tmp_path, monkeypatch):
    (tmp_path / project.FILE).touch()
    monkeypatch.setenv(project.VARIABLE, str(tmp_path))
    with pytest.raises(
        SettingError, match=r"python3 -m venv .*/\.venv-openenv && .* -m pip install openenv-core==0\.3\.0"
    ):
        environments.get("openenv:http://127.0.0.1:9")
