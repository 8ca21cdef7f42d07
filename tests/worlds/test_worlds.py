"""Whatever a tool does ends one attempt and nothing else, in bounded time; every call that comes back is unchanged."""

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

import psutil
import pytest

from agentloop import environments
from agentloop import settings as configuration
from agentloop.errors import SettingError, WorldError
from agentloop.records import Task
from agentloop.worlds.pool import Worlds
from agentloop.worlds.toolbox import MAX_CHARACTERS

FILE = str(Path(__file__).with_name("tasks_that_fail.py"))
SECONDS = 2.0
NAMES = "add, complain, count, die, fail, flood, greedy, hang, later, loosely, of_cities, say"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("worlds")
    settings = configuration.load(
        [f"paths.data={root}", f"environment={FILE}", f"collect.tool_seconds={SECONDS}", "collect.tool_memory=0.5"]
    )
    settings.export()
    return settings


@pytest.fixture(scope="module")
def worlds(settings):
    with Worlds(settings, [FILE, "database", "arithmetic"]) as worlds:
        yield worlds


@pytest.fixture(scope="module")
def task(settings) -> Task:
    return environments.get(FILE).tasks("train", 1, 0)[0]


def call(tool: str, /, *args, **kwargs) -> tuple[str, tuple, dict]:
    return tool, args, kwargs


def ask(worlds: Worlds, task: Task, *calls: tuple) -> list:
    """The replies to one episode's calls."""

    async def episode():
        async with worlds.open(task, session="s") as world:
            return [await world.call(*each) for each in calls]

    return asyncio.run(episode())


def running(word: str) -> list[psutil.Process]:
    """Descendants of this process with the word in their command line; who has ended has none."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    "made, text",
    [
        (call("add", 1), "1 None up"),
        (call("add", 1, None), "1 None up"),
        (call("add", 1, 2, "m", "down"), "3 m down"),
        (call("add", a=1, way="sideways"), "error: way: Input should be 'up' or 'down'"),
        (call("add", "1"), "error: a must be of type int"),
        (call("add", True), "error: a must be of type int"),
        (call("add", 1.0), "error: a must be of type int"),
        (call("add", a=1, unit=5), "error: unit: Input should be a valid string"),
        (call("add", self=1), "error: missing a required argument: 'a'"),
        (call("add", a=1, self=1), "error: got an unexpected keyword argument 'self'"),
        (call("loosely", [1, {"a": None}]), "[1, {'a': None}] None"),
        (call("loosely", 1, None), "1 None"),
        (call("loosely", value=1, note=2), "error: note must be of type str"),
        (call("of_cities", [{"name": "Rom", "people": 3}, {"name": "Ulm"}]), "3 m None"),
        (call("of_cities", [], "ft", {"a": 1}), "0 ft {'a': 1.0}"),
        (call("of_cities", [{"people": 3}]), "error: cities: 0.name: Field required"),
        (call("of_cities", [], "yard"), "error: unit: Input should be 'm' or 'ft'"),
        (call("later", "now"), "now"),
        (call("complain", "tool"), "error: tool"),
        (call("complain", "value"), "error: value"),
        (call("nothing"), f"error: there is no tool named nothing; there are: {NAMES}"),
        (call("say", "hi "), "hi \N{GRINNING FACE} \N{REPLACEMENT CHARACTER}\n[1 characters that cannot be encoded are replaced]"),
    ],
)  # fmt: skip
def test_a_call_is_answered_or_refused(worlds, task, made, text):
    [reply] = ask(worlds, task, made)
    assert reply.text == text
    assert reply.complaint == text.startswith("error: ")


@pytest.mark.parametrize(
    "made, complaint",
    [
        (call("fail", "key"), "tool fail: KeyError: 'missing'"),
        (call("fail", "exit"), "tool fail: SystemExit: 3"),
        (call("fail", "interrupt"), "tool fail: KeyboardInterrupt"),
        (call("fail", "recursion"), "tool fail: RecursionError: maximum recursion depth exceeded"),
        (call("fail", "unprintable"), "tool fail: Unprintable: (its text cannot be read)"),
        (call("fail", ""), "tool fail: RuntimeError: line one line two \N{REPLACEMENT CHARACTER}"),
        (call("die", 0), "tool die: its process ended with exit code 0"),
        (call("die", 3), "tool die: its process ended with exit code 3"),
        (call("die", -signal.SIGSEGV), "tool die: its process ended by SIGSEGV"),
        (call("die", -signal.SIGKILL), "tool die: its process ended by SIGKILL"),
        (call("greedy", 4000), "tool greedy: MemoryError"),
        (call("hang"), f"tool hang: no answer within collect.tool_seconds = {SECONDS:g}"),
    ],
)
def test_a_fault_ends_this_attempt(worlds, task, made, complaint):
    with pytest.raises(WorldError) as raised:
        ask(worlds, task, made)
    assert str(raised.value).startswith(complaint)
    _, alive = psutil.wait_procs(running("sleep(3600)"), timeout=20)  # a killed process takes a moment to end
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]  # whoever adopted it looks away
    [reply] = ask(worlds, task, call("add", 1))
    assert reply.text == "1 None up"


def test_a_fault_is_nobody_elses(worlds, task):
    async def episodes():
        async def good(number):
            async with worlds.open(task, session=str(number)) as world:
                return [(await world.call("count", [], {})).text for _ in range(20)]

        async def bad(how):
            async with worlds.open(task, session=how) as world:
                await world.call(how, [0] if how == "die" else [], {})

        goods = [asyncio.create_task(good(number)) for number in range(16)]
        bads = await asyncio.gather(*(bad(how) for how in ["die", "hang", "die", "hang"]), return_exceptions=True)
        return await asyncio.gather(*goods), bads

    goods, bads = asyncio.run(episodes())
    assert goods == [[str(number) for number in range(1, 21)]] * 16
    assert [type(each) for each in bads] == [WorldError] * 4


def test_state_lasts_for_an_episode_and_no_longer(worlds, task):
    for _ in range(2):
        assert [reply.text for reply in ask(worlds, task, call("count"), call("count", 5), call("count"))] == [
            "1",
            "6",
            "7",
        ]


def test_what_is_kept_is_bounded(worlds, task):
    [reply] = ask(worlds, task, call("flood", 100_000_000))
    assert reply.text == "x" * MAX_CHARACTERS and reply.omitted == 100_000_000 - MAX_CHARACTERS


def test_a_world_that_cannot_be_made_is_a_failed_attempt(worlds, task):
    broken = dataclasses.replace(task, payload={"broken": True})
    with pytest.raises(WorldError, match="^the environment's tools: LookupError: no such world$"):
        ask(worlds, broken, call("add", 1))


def test_a_dead_host_is_replaced(worlds, task):
    ask(worlds, task, call("add", 1))
    hosts = running("agentloop.worlds.host")
    for process in hosts:
        process.kill()
    psutil.wait_procs(hosts, timeout=10)
    assert ask(worlds, task, call("add", 1))[0].text == "1 None up"


def test_nothing_outlives_the_run(settings, task):
    others = set(psutil.Process().children(recursive=True))
    with Worlds(settings, [FILE]) as worlds:
        ask(worlds, task, call("add", 1))
        family = set(psutil.Process().children(recursive=True)) - others
        assert len(family) >= 3  # the supervisor, the host and a world
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_tools_draw_the_same_numbers_in_a_repeated_episode(settings, worlds, tmp_path):
    file = tmp_path / "dice.py"
    file.write_text(
        "import random\nfrom agentloop.environments import Environment, Question\nfrom agentloop.tools import FunctionTool\n"
        "def roll() -> int:\n    'A die.'\n    return random.randrange(10**9)\n"
        "class Dice(Environment):\n    name = 'dice'\n"
        "    def questions(self, rng):\n        yield from (Question('all', str(n), str(n), {}) for n in range(50))\n"
        "    def tools(self, task):\n        return {'roll': FunctionTool(roll)}\n"
        "    def verify(self, task, answer):\n        return 0.0\n"
    )
    [task] = environments.get(str(file)).tasks("train", 1, 0)

    async def rolls(worlds, session):
        async with worlds.open(task, session=session) as world:
            return [(await world.call("roll", [], {})).text for _ in range(3)]

    with Worlds(settings, [str(file)]) as worlds:
        first, again, other = (asyncio.run(rolls(worlds, session)) for session in ("a", "a", "b"))
    assert first == again != other and len(set(first)) == 3


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import sys; sys.exit(4)", "line 1: SystemExit: 4"),
        ("import os; os._exit(4)", "its process ended"),
    ],
)
def test_an_environment_that_cannot_be_imported_is_one_line(settings, tmp_path, text, complaint):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with Worlds(settings, [str(file)]) as worlds, pytest.raises(SettingError, match=complaint) as raised:
        worlds.start()
    assert "\n" not in str(raised.value) and str(raised.value).startswith("environment: ")


def test_secrets_stay_with_the_run(settings, task, monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "agentloop:$ecret")
    monkeypatch.setenv("VLLM_API_KEY", "$ecret")
    file = settings.paths.data / "environ.py"
    file.write_text(
        "import os\nfrom agentloop.environments import Environment, Question\nfrom agentloop.tools import FunctionTool\n"
        "def look() -> str:\n    'Variables.'\n    return str(sorted(os.environ.values()))\n"
        "class Environ(Environment):\n    name = 'environ'\n"
        "    def questions(self, rng):\n        yield from (Question('all', str(n), str(n), {}) for n in range(50))\n"
        "    def tools(self, task):\n        return {'look': FunctionTool(look)}\n"
        "    def verify(self, task, answer):\n        return 0.0\n"
    )
    [task] = environments.get(str(file)).tasks("train", 1, 0)
    with Worlds(settings, [str(file)]) as worlds:
        [reply] = ask(worlds, task, call("look"))
    assert "$ecret" not in reply.text and os.environ["PATH"] in reply.text
